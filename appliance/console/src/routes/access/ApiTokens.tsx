import { Alert, Button } from "@patternfly/react-core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { allPages, answered, api, type Schemas } from "../../api/client";
import { LIMIT } from "../../api/queries";
import { useSession } from "../../app/session";
import { Confirm } from "../../parts/confirm";
import { Copy } from "../../parts/copy";
import { FormDialogue } from "../../parts/dialogue";
import { Choose, Field } from "../../parts/field";
import { Shown } from "../../parts/states";
import { ListTable, type Column } from "../../parts/table";
import { Age, Foreign } from "../../parts/text";
import { inert } from "../../parts/words";

type Token = Schemas["ApiTokenOut"];
type Role = Schemas["Role"];

const SCOPES: readonly Role[] = ["viewer", "operator", "admin"];
const LIVES = [
  { value: "2592000", label: "30 days" },
  { value: "31536000", label: "1 year" },
  { value: "", label: "Without end" },
];

const COLUMNS: Column<Token>[] = [
  {
    key: "name",
    title: "Name",
    text: ({ name }) => name,
    cell: ({ name }) => <Foreign text={name} />,
  },
  {
    key: "user",
    title: "In the name of",
    text: ({ user }) => user,
    cell: ({ user }) => <Foreign text={user} />,
  },
  { key: "scope", title: "Scope", text: ({ scope }) => scope, cell: ({ scope }) => scope },
  {
    key: "created",
    title: "Created",
    text: ({ created_at }) => Date.parse(created_at),
    cell: ({ created_at }) => <Age at={created_at} />,
  },
  {
    key: "ends",
    title: "Ends",
    text: ({ expires_at }) => (expires_at ? Date.parse(expires_at) : Infinity),
    cell: ({ expires_at }) => <Age at={expires_at} />,
  },
  {
    key: "used",
    title: "Last used",
    text: ({ last_used_at }) => (last_used_at ? Date.parse(last_used_at) : 0),
    cell: ({ last_used_at }) => <Age at={last_used_at} />,
  },
];

/** What programs sign in with. */
export function ApiTokens() {
  const tokens = useQuery({
    queryKey: ["api-tokens"],
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/api-tokens", { params: { query: { limit: LIMIT, cursor } }, signal }),
      ),
  });
  const [isOpen, setOpen] = useState(false);
  const [made, setMade] = useState<Schemas["ApiTokenCreated"]>();
  const [deleting, setDeleting] = useState<Token>();
  const create = <Button onClick={() => setOpen(true)}>Make an API token</Button>;
  return (
    <div className="cairn-stack">
      {made && (
        <Alert
          variant="warning"
          isInline
          isLiveRegion
          component="p"
          title={`The token ${inert(made.name)} is shown only now`}
        >
          <Copy text={made.token} label="token" />
          <Button variant="link" isInline onClick={() => setMade(undefined)}>
            I have kept it
          </Button>
        </Alert>
      )}
      <Shown
        query={tokens}
        what="API tokens"
        isEmpty={(rows) => rows.length === 0}
        empty={{
          title: "There is no API token",
          body: "A program signs in with one, in the name of who made it.",
          action: create,
        }}
      >
        {(rows) => (
          <ListTable
            label="API tokens"
            rows={rows}
            columns={COLUMNS}
            id={({ id }) => id}
            searched={({ name, user, scope }) => [name, user, scope]}
            sort="name"
            actions={create}
            rowActions={(row) => (
              <Button size="sm" variant="secondary" isDanger onClick={() => setDeleting(row)}>
                Delete
              </Button>
            )}
          />
        )}
      </Shown>
      {isOpen && <NewToken onClose={() => setOpen(false)} onDone={setMade} />}
      {deleting && (
        <Confirm
          title={`Delete the API token ${inert(deleting.name)}?`}
          act="Delete"
          isDestructive
          changes={["api-tokens", "audit"]}
          onClose={() => setDeleting(undefined)}
          run={() =>
            answered(
              api.DELETE("/api/v1/api-tokens/{api_token}", {
                params: { path: { api_token: deleting.id } },
              }),
            )
          }
        >
          <p>What signs in with it is refused from then on.</p>
        </Confirm>
      )}
    </div>
  );
}

interface NewTokenProps {
  onClose: () => void;
  onDone: (made: Schemas["ApiTokenCreated"]) => void;
}

function NewToken({ onClose, onDone }: NewTokenProps) {
  const { session } = useSession();
  const [name, setName] = useState("");
  const [scope, setScope] = useState<Role>("viewer");
  const [life, setLife] = useState("2592000");
  const allowed = SCOPES.slice(0, SCOPES.indexOf(session?.role ?? "viewer") + 1);
  return (
    <FormDialogue
      title="Make an API token"
      act="Make it"
      mayAct={Boolean(name)}
      changes={["api-tokens", "audit"]}
      onClose={onClose}
      onDone={onDone}
      run={() =>
        answered(
          api.POST("/api/v1/api-tokens", {
            body: { name, scope, life_s: life ? Number(life) : null },
          }),
        )
      }
    >
      <Field
        label="Name"
        value={name}
        set={setName}
        isRequired
        maxLength={64}
        help="What uses it, as backup-job"
      />
      <Choose
        label="Scope"
        value={scope}
        set={(value) => setScope(SCOPES.find((each) => each === value) ?? "viewer")}
        options={allowed.map((value) => ({ value, label: value }))}
      />
      <Choose label="How long" value={life} set={setLife} options={LIVES} />
    </FormDialogue>
  );
}
