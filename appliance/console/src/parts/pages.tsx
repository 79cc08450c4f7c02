import { Button, FormSelect, FormSelectOption } from "@patternfly/react-core";
import {
  useInfiniteQuery,
  type InfiniteData,
  type UseInfiniteQueryResult,
} from "@tanstack/react-query";
import type { ReactNode } from "react";
import { useSearchParams } from "react-router";
import { serverNow } from "./clock";
import { Shown } from "./states";
import { useParameter } from "./table";

/** Lists that are read from the newest on, a page at a time, within a time that is chosen. */

const RANGES = [
  { value: "3600", label: "Last hour" },
  { value: "86400", label: "Last day" },
  { value: "604800", label: "Last 7 days" },
];
export const PAGE = 100;

interface Part<T> {
  items: T[];
  next?: string | null;
}
type Pages<T> = UseInfiniteQueryResult<InfiniteData<Part<T>>>;
type Ask<T> = (cursor: string, since: string | undefined, signal: AbortSignal) => Promise<Part<T>>;

/** Reads the newest page, and older ones as they are asked for; `key` has the filters in it. */
export function useNewestFirst<T>(key: readonly unknown[], ask: Ask<T>): Pages<T> {
  const [search] = useSearchParams();
  const range = Number(search.get("range") ?? 0);
  return useInfiniteQuery({
    queryKey: [...key, range],
    initialPageParam: "",
    getNextPageParam: ({ next }: Part<T>) => next ?? undefined,
    queryFn: ({ pageParam, signal }) => {
      const since = range ? new Date(serverNow() - range * 1_000).toISOString() : undefined;
      return ask(pageParam, since, signal);
    },
  });
}

/** The time that is looked at; it is in the address. */
export function TimeRange() {
  const [search] = useSearchParams();
  const set = useParameter();
  return (
    <FormSelect
      aria-label="Time"
      value={search.get("range") ?? ""}
      onChange={(_, value) => set("range", value)}
    >
      <FormSelectOption value="" label="All that is kept" />
      {RANGES.map((each) => (
        <FormSelectOption key={each.value} {...each} />
      ))}
    </FormSelect>
  );
}

interface NewestFirstProps<T> {
  pages: Pages<T>;
  /** As in "Loading events". */
  what: string;
  one: string;
  children: (rows: readonly T[]) => ReactNode;
}

/** The rows that were read, and a button that reads older ones. */
export function NewestFirst<T>({ pages, what, one, children }: NewestFirstProps<T>) {
  const rows = pages.data?.pages.flatMap(({ items }) => items) ?? [];
  return (
    <>
      <Shown
        query={pages}
        what={what}
        isEmpty={() => rows.length === 0}
        empty={{ title: `No ${one} fits`, body: "Choose a longer time or another filter." }}
      >
        {() => children(rows)}
      </Shown>
      {pages.hasNextPage && (
        <Button
          variant="secondary"
          isLoading={pages.isFetchingNextPage}
          onClick={() => void pages.fetchNextPage()}
        >
          Older than these {rows.length.toLocaleString("en")} {what}
        </Button>
      )}
    </>
  );
}
