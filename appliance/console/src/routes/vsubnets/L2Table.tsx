import { Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import type { Schemas } from "../../api/client";
import { useTable } from "../../api/queries";
import { NodeLink } from "../../parts/node";
import { Shown } from "../../parts/states";
import { Age, Foreign } from "../../parts/text";
import { lengthOf } from "../../parts/words";

type Entry = Schemas["TableEntryOut"];
const SHOWN_MAX = 500;
const CONFLICTS = { duplicate_mac: "duplicate MAC", duplicate_ip: "duplicate IP" } as const;

/** Every MAC of the vSubnet, those in conflict first. */
export function L2Table({ vsubnet }: { vsubnet: { id: string } }) {
  const table = useTable(vsubnet.id);
  return (
    <Card>
      <CardTitle component="h2">MAC and IP table</CardTitle>
      <CardBody>
        <Shown
          query={table}
          what="addresses"
          isEmpty={({ entries }) => entries.length === 0}
          empty={{
            title: "No address yet",
            body: "Members and what their data planes learn appear here.",
          }}
        >
          {({ at, entries, bum }) => (
            <>
              <p>
                {entries.length.toLocaleString("en")} MACs as of <Age at={at} />; limits of BUM drop{" "}
                {bum.dropped_per_s.toFixed(1)} frames/s
              </p>
              <Entries entries={worstFirst(entries)} />
            </>
          )}
        </Shown>
      </CardBody>
    </Card>
  );
}

function worstFirst(entries: readonly Entry[]): Entry[] {
  const rank = (entry: Entry): number => (entry.conflict ? 0 : entry.frozen ? 1 : 2);
  return [...entries].sort((a, b) => rank(a) - rank(b) || a.mac.localeCompare(b.mac));
}

function Entries({ entries }: { entries: readonly Entry[] }) {
  return (
    <>
      <Table aria-label="MAC and IP table" variant="compact">
        <Thead>
          <Tr>
            <Th>MAC</Th>
            <Th>Addresses</Th>
            <Th>At node</Th>
            <Th>Kind</Th>
            <Th>Age</Th>
            <Th>Moves</Th>
            <Th>Conflict</Th>
          </Tr>
        </Thead>
        <Tbody>
          {entries.slice(0, SHOWN_MAX).map((entry) => (
            <Tr key={`${entry.mac}/${entry.node}`}>
              <Td dataLabel="MAC">
                <Foreign text={entry.mac} code />
              </Td>
              <Td dataLabel="Addresses">
                <Foreign text={entry.ips.join(", ")} code />
              </Td>
              <Td dataLabel="At node">
                {entry.node && <NodeLink node={{ id: entry.node, name: entry.node_name }} />}
              </Td>
              <Td dataLabel="Kind">{entry.kind}</Td>
              <Td dataLabel="Age">{entry.age_s === null ? "not known" : lengthOf(entry.age_s)}</Td>
              <Td dataLabel="Moves">{entry.moves}</Td>
              <Td dataLabel="Conflict">
                {entry.conflict && <Label status="danger">{CONFLICTS[entry.conflict]}</Label>}
                {entry.frozen && <Label status="warning">frozen: it moved too often</Label>}
              </Td>
            </Tr>
          ))}
        </Tbody>
      </Table>
      {entries.length > SHOWN_MAX && <p>The first {SHOWN_MAX} are shown; search for the others.</p>}
    </>
  );
}
