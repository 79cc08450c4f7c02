import { Button, FormSelect, FormSelectOption, SearchInput } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useInfiniteQuery } from "@tanstack/react-query";
import { useSearchParams } from "react-router";
import { answered, api, type Schemas } from "../../api/client";
import { EventLinks, SeverityLabel } from "../../parts/events";
import { serverNow } from "../../parts/clock";
import { Page } from "../../parts/page";
import { Shown } from "../../parts/states";
import { useParameter } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";

type Event = Schemas["EventOut"];
type Severity = Schemas["Severity"];

const RANGES = [
  { value: "3600", label: "Last hour" },
  { value: "86400", label: "Last day" },
  { value: "604800", label: "Last 7 days" },
];
const SEVERITIES: Severity[] = ["info", "warning", "alarm"];

/** What happened, newest first; filters and time range are in the address. */
export function Component() {
  const [search] = useSearchParams();
  const set = useParameter();
  const range = Number(search.get("range") ?? 0);
  const severity = SEVERITIES.filter((each) => each === search.get("severity"));
  const filter = {
    kind: search.get("kind") ?? "",
    node: search.get("node") ?? "",
    vsubnet: search.get("vsubnet") ?? "",
  };
  const events = useInfiniteQuery({
    queryKey: ["events", "pages", filter, severity, range],
    initialPageParam: "",
    getNextPageParam: ({ next }: Schemas["Page_EventOut_"]) => next ?? undefined,
    queryFn: ({ pageParam, signal }) => {
      const since = range ? new Date(serverNow() - range * 1_000).toISOString() : undefined;
      const query = { ...filter, severity, limit: 100, cursor: pageParam, since };
      return answered(api.GET("/api/v1/events", { params: { query }, signal }));
    },
  });
  const rows = events.data?.pages.flatMap(({ items }) => items) ?? [];
  return (
    <Page title="Events" lead="What happened, newest first; a new one appears by itself.">
      <div className="cairn-filters">
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
        <FormSelect
          aria-label="Severity"
          value={severity[0] ?? ""}
          onChange={(_, value) => set("severity", value)}
        >
          <FormSelectOption value="" label="Severity: all" />
          {SEVERITIES.map((each) => (
            <FormSelectOption key={each} value={each} label={each} />
          ))}
        </FormSelect>
        <SearchInput
          aria-label="Kind"
          placeholder="Kind, as node_enrolled"
          value={filter.kind}
          onChange={(_, value) => set("kind", value)}
          onClear={() => set("kind", "")}
        />
      </div>
      <Shown
        query={events}
        what="events"
        isEmpty={() => rows.length === 0}
        empty={{ title: "No event fits", body: "Choose a longer time or another filter." }}
      >
        {() => <EventTable rows={rows} />}
      </Shown>
      {events.hasNextPage && (
        <Button
          variant="secondary"
          isLoading={events.isFetchingNextPage}
          onClick={() => void events.fetchNextPage()}
        >
          Older events
        </Button>
      )}
    </Page>
  );
}

function EventTable({ rows }: { rows: readonly Event[] }) {
  return (
    <Table aria-label="Events" variant="compact">
      <Thead>
        <Tr>
          <Th>When</Th>
          <Th>Severity</Th>
          <Th>What</Th>
          <Th>About</Th>
          <Th>By</Th>
          <Th>Kind</Th>
        </Tr>
      </Thead>
      <Tbody>
        {rows.map((event) => (
          <Tr key={event.id}>
            <Td dataLabel="When">
              <Age at={event.at} />
            </Td>
            <Td dataLabel="Severity">
              <SeverityLabel severity={event.severity} />
            </Td>
            <Td dataLabel="What">
              <Foreign text={event.text} />
            </Td>
            <Td dataLabel="About">
              <EventLinks event={event} />
            </Td>
            <Td dataLabel="By">
              <Foreign
                text={[event.by.kind, event.by.name, event.by.address].filter(Boolean).join(" ")}
              />
            </Td>
            <Td dataLabel="Kind">
              <Foreign text={event.kind} code />
            </Td>
          </Tr>
        ))}
      </Tbody>
    </Table>
  );
}
