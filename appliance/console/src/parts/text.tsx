import { absolute, ageOf, inert } from "./words";
import { useNow } from "./clock";

/** Text that others wrote: isolated from the direction of what stands beside it, and inert. */
export function Foreign({ text, code = false }: { text: string; code?: boolean }) {
  const shown = inert(text);
  return code ? (
    <code>
      <bdi>{shown}</bdi>
    </code>
  ) : (
    <bdi>{shown}</bdi>
  );
}

/** How long ago; the moment itself is its title. */
export function Age({ at, never = "never" }: { at: string | null | undefined; never?: string }) {
  const now = useNow();
  if (!at) return <span>{never}</span>;
  const atMs = Date.parse(at);
  return (
    <time dateTime={at} title={absolute(atMs)}>
      {ageOf(atMs, now)}
    </time>
  );
}
