import { Button, Card, CardBody, CardTitle, Label } from "@patternfly/react-core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { allPages, answered, api, type Schemas } from "../../api/client";
import { LIMIT } from "../../api/queries";
import { useMay } from "../../app/session";
import { Confirm } from "../../parts/confirm";
import { VSubnetLink } from "../../parts/node";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { plural } from "../../parts/words";

type Token = Schemas["TokenOut"];

const COLUMNS: Column<Token>[] = [
  { key: "id", title: "Token", text: ({ id }) => id, cell: ({ id }) => <Foreign text={id} code /> },
  {
    key: "state",
    title: "State",
    text: ({ state }) => state,
    cell: ({ state }) => (
      <Label status={state === "active" ? "success" : undefined}>{state.replace("_", " ")}</Label>
    ),
  },
  {
    key: "vsubnets",
    title: "vSubnets",
    text: ({ vsubnets }) => vsubnets.length,
    cell: ({ vsubnets }) => (
      <span className="cairn-labels">
        {vsubnets.map((each) => (
          <VSubnetLink key={each.id} vsubnet={each} />
        ))}
      </span>
    ),
  },
  {
    key: "uses",
    title: "Used",
    text: ({ uses }) => uses,
    cell: (each) => `${String(each.uses)} of ${String(each.max_uses)}`,
  },
  {
    key: "site",
    title: "Site",
    text: ({ site }) => site,
    cell: ({ site }) => <Foreign text={site} />,
  },
  {
    key: "ends",
    title: "Ends",
    text: ({ expires_at }) => Date.parse(expires_at),
    cell: ({ expires_at }) => <Age at={expires_at} />,
  },
  {
    key: "by",
    title: "Made by",
    text: ({ created_by }) => created_by,
    cell: (each) => <Foreign text={each.created_by} />,
  },
];

/** All tokens, without their secrets. */
export function Tokens() {
  const tokens = useQuery({
    queryKey: ["tokens", "list"],
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/tokens", { params: { query: { limit: LIMIT, cursor } }, signal }),
      ),
  });
  const mayOperate = useMay("operator");
  const [going, setGoing] = useState<Token>();
  return (
    <Card>
      <CardTitle component="h2">Tokens</CardTitle>
      <CardBody>
        <Shown
          query={tokens}
          what="tokens"
          isEmpty={(rows) => rows.length === 0}
          empty={{ title: "There is no token", body: "Each one that is made is listed here." }}
        >
          {(rows) => (
            <ListTable
              label="Tokens"
              rows={rows}
              columns={COLUMNS}
              id={({ id }) => id}
              searched={(each) => [
                each.id,
                each.site,
                each.created_by,
                ...each.vsubnets.map(({ name }) => name),
              ]}
              sort="-ends"
              rowActions={
                mayOperate
                  ? (row) => (
                      <Button size="sm" variant="secondary" isDanger onClick={() => setGoing(row)}>
                        Delete
                      </Button>
                    )
                  : undefined
              }
            />
          )}
        </Shown>
        {going && (
          <Confirm
            title={`Delete the token ${going.id}?`}
            act="Delete"
            isDestructive
            changes={["tokens"]}
            onClose={() => setGoing(undefined)}
            run={() =>
              answered(
                api.DELETE("/api/v1/tokens/{token}", { params: { path: { token: going.id } } }),
              )
            }
          >
            <p>
              {going.state === "active"
                ? `${plural(going.max_uses - going.uses, "node")} that could still join with it can't any more.`
                : "Nobody can join with it as it is."}{" "}
              Nodes that joined with it stay.
            </p>
          </Confirm>
        )}
      </CardBody>
    </Card>
  );
}
