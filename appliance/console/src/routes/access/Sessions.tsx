import { Button, Label } from "@patternfly/react-core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { allPages, answered, api, type Schemas } from "../../api/client";
import { LIMIT } from "../../api/queries";
import { Confirm } from "../../parts/confirm";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { inert } from "../../parts/words";

type Row = Schemas["SessionRow"];

const COLUMNS: Column<Row>[] = [
  {
    key: "user",
    title: "User",
    text: ({ user }) => user,
    cell: ({ user, current }) => (
      <>
        <Foreign text={user} /> {current && <Label status="info">this one</Label>}
      </>
    ),
  },
  {
    key: "address",
    title: "From",
    text: ({ address }) => address,
    cell: ({ address }) => <Foreign text={address} code />,
  },
  {
    key: "client",
    title: "By",
    text: ({ client }) => client,
    cell: ({ client }) => <Foreign text={client} />,
  },
  {
    key: "created",
    title: "Logged in",
    text: ({ created_at }) => Date.parse(created_at),
    cell: ({ created_at }) => <Age at={created_at} />,
  },
  {
    key: "seen",
    title: "Last used",
    text: ({ seen_at }) => Date.parse(seen_at),
    cell: ({ seen_at }) => <Age at={seen_at} />,
  },
  {
    key: "ends",
    title: "Ends",
    text: ({ ends_at }) => Date.parse(ends_at),
    cell: ({ ends_at }) => <Age at={ends_at} />,
  },
];

/** Who is logged in; administrators see all, others their own. */
export function Sessions() {
  const sessions = useQuery({
    queryKey: ["sessions"],
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/sessions", { params: { query: { limit: LIMIT, cursor } }, signal }),
      ),
  });
  const [ending, setEnding] = useState<Row>();
  return (
    <>
      <Shown query={sessions} what="sessions">
        {(rows) => (
          <ListTable
            label="Sessions"
            rows={rows}
            columns={COLUMNS}
            id={({ id }) => id}
            searched={({ user, address, client }) => [user, address, client]}
            sort="-seen"
            rowActions={(row) =>
              !row.current && (
                <Button size="sm" variant="secondary" isDanger onClick={() => setEnding(row)}>
                  End
                </Button>
              )
            }
          />
        )}
      </Shown>
      {ending && (
        <Confirm
          title={`End this session of ${inert(ending.user)}?`}
          act="End"
          isDestructive
          changes={["sessions", "audit"]}
          onClose={() => setEnding(undefined)}
          run={() =>
            answered(
              api.DELETE("/api/v1/sessions/{session}", {
                params: { path: { session: ending.id } },
              }),
            )
          }
        >
          <p>
            Its next request is refused; from <Foreign text={ending.address} code /> one has to log
            in again.
          </p>
        </Confirm>
      )}
    </>
  );
}
