import { FormSelect, FormSelectOption } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useSearchParams } from "react-router";
import { answered, api, type Schemas } from "../../api/client";
import { EventLinks, SeverityLabel } from "../../parts/events";
import { Page } from "../../parts/page";
import { NewestFirst, PAGE, TimeRange, useNewestFirst } from "../../parts/pages";
import { FilterField, useParameter } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";

type Event = Schemas["EventOut"];
type Severity = Schemas["Severity"];

const SEVERITIES: Severity[] = ["info", "warning", "alarm"];

/** What happened, newest first; filters and time range are in the address. */
export function Component() {
  const [search] = useSearchParams();
  const set = useParameter();
  const severity = SEVERITIES.filter((each) => each === search.get("severity"));
  const filter = {
    kind: search.get("kind") ?? "",
    node: search.get("node") ?? "",
    vsubnet: search.get("vsubnet") ?? "",
  };
  const events = useNewestFirst(["events", "pages", filter, severity], (cursor, since, signal) => {
    const query = { ...filter, severity, limit: PAGE, cursor, since };
    return answered(api.GET("/api/v1/events", { params: { query }, signal }));
  });
  return (
    <Page title="Events" lead="What happened, newest first; a new one appears by itself.">
      <div className="cairn-filters">
        <TimeRange />
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
        <FilterField
          label="Kind"
          placeholder="Kind, as node_enrolled"
          value={filter.kind}
          set={(text) => set("kind", text)}
        />
      </div>
      <NewestFirst pages={events} what="events" one="event">
        {(rows) => <EventTable rows={rows} />}
      </NewestFirst>
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
