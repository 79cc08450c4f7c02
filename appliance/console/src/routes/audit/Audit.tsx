import { Alert, Button, Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { Table, Tbody, Td, Th, Thead, Tr } from "@patternfly/react-table";
import { useMutation } from "@tanstack/react-query";
import { useSearchParams } from "react-router";
import { answered, api, type Schemas } from "../../api/client";
import { useMay } from "../../app/session";
import { Help } from "../../parts/help";
import { Page } from "../../parts/page";
import { NewestFirst, PAGE, TimeRange, useNewestFirst } from "../../parts/pages";
import { FailureAlert } from "../../parts/states";
import { FilterField, useParameter } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";

type Row = Schemas["AuditOut"];

const FILTERS = [
  { key: "actor", label: "Who", hint: "Who, as admin" },
  { key: "action", label: "Action", hint: "Action, as DELETE" },
  { key: "target", label: "Target", hint: "Target, as /nodes/" },
] as const;

/** What was asked for, by whom, and what became of it; chained, so that tampering is found. */
export function Component() {
  const mayRead = useMay("operator");
  return (
    <Page
      title="Audit"
      help={<Help word="audit" />}
      lead="Each request that changes something, newest first; records are chained and signed."
      actions={
        mayRead && (
          <>
            <a href="/api/v1/audit/export?format=jsonl" download="cairn-audit.jsonl">
              Export as JSON lines
            </a>
            <a href="/api/v1/audit/export?format=csv" download="cairn-audit.csv">
              Export as CSV
            </a>
          </>
        )
      }
    >
      {mayRead ? (
        <div className="cairn-stack">
          <Verify />
          <Records />
        </div>
      ) : (
        <Alert
          variant="info"
          isInline
          component="p"
          title="The audit is for operators and administrators"
        />
      )}
    </Page>
  );
}

function Verify() {
  const looking = useMutation({
    mutationFn: () => answered(api.GET("/api/v1/audit/verify")),
  });
  const found = looking.data;
  return (
    <Card>
      <CardTitle component="h2">
        Are the chains whole? <Help word="chain" />
      </CardTitle>
      <CardBody className="cairn-stack">
        {looking.isError && <FailureAlert error={looking.error} title="They were not looked at" />}
        {found && (
          <>
            <Alert
              variant={found.ok ? "success" : "danger"}
              isInline
              isLiveRegion
              component="p"
              title={
                found.ok
                  ? "Each record is where it was written, and all signatures fit"
                  : "Records were changed, removed or added by something else than an appliance"
              }
            >
              As of <Age at={found.at} />, by the key <Foreign text={found.key} code />.
              {!found.ok && (
                <p>What to do: keep an export, find out who had access, see docs/security.md.</p>
              )}
            </Alert>
            <Table aria-label="Chains" variant="compact">
              <Thead>
                <Tr>
                  <Th>Appliance</Th>
                  <Th>State</Th>
                  <Th>Records</Th>
                  <Th>Signed checkpoints</Th>
                </Tr>
              </Thead>
              <Tbody>
                {found.chains.map((chain) => (
                  <Tr key={chain.appliance}>
                    <Td dataLabel="Appliance">
                      <Foreign text={chain.appliance} />
                    </Td>
                    <Td dataLabel="State">
                      {chain.ok ? (
                        <Label status="success">whole</Label>
                      ) : (
                        <>
                          <Label status="danger">broken</Label> <Foreign text={chain.problem} />
                        </>
                      )}
                    </Td>
                    <Td dataLabel="Records">{chain.records.toLocaleString("en")}</Td>
                    <Td dataLabel="Signed checkpoints">{chain.checkpoints.toLocaleString("en")}</Td>
                  </Tr>
                ))}
              </Tbody>
            </Table>
          </>
        )}
        <div>
          <Button
            variant="secondary"
            isLoading={looking.isPending}
            onClick={() => looking.mutate()}
          >
            Verify now
          </Button>
        </div>
      </CardBody>
    </Card>
  );
}

function Records() {
  const [search] = useSearchParams();
  const set = useParameter();
  const filter = {
    actor: search.get("actor") ?? "",
    action: search.get("action") ?? "",
    target: search.get("target") ?? "",
  };
  const records = useNewestFirst(["audit", filter], (cursor, since, signal) => {
    const query = { ...filter, limit: PAGE, cursor, since };
    return answered(api.GET("/api/v1/audit", { params: { query }, signal }));
  });
  return (
    <div>
      <div className="cairn-filters">
        <TimeRange />
        {FILTERS.map(({ key, label, hint }) => (
          <FilterField
            key={key}
            label={label}
            placeholder={hint}
            value={filter[key]}
            set={(text) => set(key, text)}
          />
        ))}
      </div>
      <NewestFirst pages={records} what="records" one="record">
        {(rows) => <RecordTable rows={rows} />}
      </NewestFirst>
    </div>
  );
}

const OUTCOMES: Record<string, "success" | "warning" | "danger"> = {
  done: "success",
  refused: "warning",
  failed: "danger",
  unknown: "warning",
};

function Outcome({ row }: { row: Row }) {
  if (!row.outcome) return null;
  return (
    <Label status={OUTCOMES[row.outcome]}>
      {row.outcome}
      {row.status > 0 && ` (${String(row.status)})`}
    </Label>
  );
}

function RecordTable({ rows }: { rows: readonly Row[] }) {
  return (
    <Table aria-label="Records" variant="compact">
      <Thead>
        <Tr>
          <Th>When</Th>
          <Th>Who</Th>
          <Th>Outcome</Th>
          <Th>Asked for</Th>
          <Th>Details</Th>
          <Th>Request</Th>
          <Th>Record</Th>
        </Tr>
      </Thead>
      <Tbody>
        {rows.map((row) => (
          <Tr key={`${row.appliance}/${String(row.index)}`}>
            <Td dataLabel="When">
              <Age at={row.at} />
            </Td>
            <Td dataLabel="Who">
              <Foreign
                text={[row.actor.name || row.actor.kind, row.actor.role, row.actor.address]
                  .filter(Boolean)
                  .join(" ")}
              />
            </Td>
            <Td dataLabel="Outcome">
              <Outcome row={row} />
            </Td>
            <Td dataLabel="Asked for">
              <Foreign text={[row.action.split(" ")[0], row.target || row.kind].join(" ")} code />
            </Td>
            <Td dataLabel="Details">
              <Foreign
                text={Object.entries(row.details)
                  .map(([key, value]) => `${key}=${value}`)
                  .join("; ")}
              />
            </Td>
            <Td dataLabel="Request">
              <Foreign text={row.request_id} code />
            </Td>
            <Td dataLabel="Record">
              <span title={`SHA-256 ${row.hash}`}>
                <Foreign text={`${row.appliance} ${String(row.index)}`} />
              </span>
            </Td>
          </Tr>
        ))}
      </Tbody>
    </Table>
  );
}
