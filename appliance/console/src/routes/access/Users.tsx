import { Alert, Button, Label } from "@patternfly/react-core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { allPages, answered, answeredWithTag, api, type Schemas } from "../../api/client";
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

type User = Schemas["UserOut"];
type Role = Schemas["Role"];

const ROLES = [
  { value: "viewer", label: "viewer: sees all" },
  { value: "operator", label: "operator: also nodes, vSubnets, gateways" },
  { value: "admin", label: "admin: also users, cluster, backups" },
] as const;
const roleOf = (text: string): Role => ROLES.find(({ value }) => value === text)?.value ?? "viewer";

function UserState({ user }: { user: User }) {
  if (user.disabled) return <Label status="warning">disabled</Label>;
  if (user.locked_until) {
    return (
      <Label status="danger">
        locked, ends <Age at={user.locked_until} />
      </Label>
    );
  }
  if (user.must_change_password) return <Label status="info">has to choose a password</Label>;
  return (
    <Label status="success">
      {user.external ? "may log in by the identity provider" : "may log in"}
    </Label>
  );
}

const COLUMNS: Column<User>[] = [
  {
    key: "name",
    title: "User",
    text: ({ name }) => name,
    cell: ({ name }) => <Foreign text={name} />,
  },
  { key: "role", title: "Role", text: ({ role }) => role, cell: ({ role }) => role },
  {
    key: "state",
    title: "State",
    text: (user) => (user.disabled ? 0 : 1),
    cell: (user) => <UserState user={user} />,
  },
  {
    key: "totp",
    title: "Code at login",
    text: ({ totp }) => (totp ? 1 : 0),
    cell: ({ totp }) => (totp ? "asked for" : "no"),
  },
  {
    key: "last",
    title: "Last login",
    text: ({ last_login_at }) => (last_login_at ? Date.parse(last_login_at) : 0),
    cell: ({ last_login_at }) => <Age at={last_login_at} />,
  },
  {
    key: "created",
    title: "Created",
    text: ({ created_at }) => Date.parse(created_at),
    cell: ({ created_at }) => <Age at={created_at} />,
  },
];

type Act = "role" | "disable" | "enable" | "reset" | "totp" | "delete";

/** Everybody who may log in; for administrators. */
export function Users() {
  const users = useQuery({
    queryKey: ["users"],
    queryFn: ({ signal }) =>
      allPages((cursor) =>
        api.GET("/api/v1/users", { params: { query: { limit: LIMIT, cursor } }, signal }),
      ),
  });
  const [isOpen, setOpen] = useState(false);
  const [chosen, setChosen] = useState<{ user: User; act: Act }>();
  const [drawn, setDrawn] = useState<{ name: string; password: string }>();
  const close = (): void => setChosen(undefined);
  return (
    <div className="cairn-stack">
      {drawn && (
        <Alert
          variant="warning"
          isInline
          isLiveRegion
          component="p"
          title={`The password of ${inert(drawn.name)} is shown only now`}
        >
          <p>It has to be changed at the next login.</p>
          <Copy text={drawn.password} label="password" />
          <Button variant="link" isInline onClick={() => setDrawn(undefined)}>
            I have passed it on
          </Button>
        </Alert>
      )}
      <Shown query={users} what="users">
        {(rows) => (
          <ListTable
            label="Users"
            rows={rows}
            columns={COLUMNS}
            id={({ name }) => name}
            searched={({ name, role }) => [name, role]}
            sort="name"
            actions={<Button onClick={() => setOpen(true)}>Create a user</Button>}
            rowActions={(user) => (
              <Actions user={user} choose={(act) => setChosen({ user, act })} />
            )}
          />
        )}
      </Shown>
      {isOpen && <NewUser onClose={() => setOpen(false)} onDone={setDrawn} />}
      {chosen && <Change user={chosen.user} act={chosen.act} onClose={close} onDrawn={setDrawn} />}
    </div>
  );
}

function Actions({ user, choose }: { user: User; choose: (act: Act) => void }) {
  const { session } = useSession();
  const isOwn = session?.user === user.name;
  const button = (act: Act, text: string, isDanger = false) => (
    <Button size="sm" variant="secondary" isDanger={isDanger} onClick={() => choose(act)}>
      {text}
      <span className="pf-v6-screen-reader"> {inert(user.name)}</span>
    </Button>
  );
  return (
    <span className="cairn-actions">
      {!user.external && button("role", "Role")}
      {!isOwn && !user.external && button("reset", "Reset password")}
      {!isOwn && user.totp && button("totp", "Remove code")}
      {user.disabled ? button("enable", "Enable") : button("disable", "Disable", true)}
      {!isOwn && button("delete", "Delete", true)}
    </span>
  );
}

type Drawn = (drawn: { name: string; password: string }) => void;

function NewUser({ onClose, onDone }: { onClose: () => void; onDone: Drawn }) {
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>("operator");
  return (
    <FormDialogue
      title="Create a user"
      act="Create"
      mayAct={Boolean(name)}
      changes={["users", "audit"]}
      onClose={onClose}
      onDone={onDone}
      run={() => answered(api.POST("/api/v1/users", { body: { name, role, password: "" } }))}
    >
      <Field
        label="Name"
        value={name}
        set={setName}
        isRequired
        maxLength={64}
        help="A password is drawn and shown once; it has to be changed at the first login"
      />
      <Choose
        label="Role"
        value={role}
        set={(value) => setRole(roleOf(value))}
        options={ROLES}
        isRequired
      />
    </FormDialogue>
  );
}

async function change(user: User, body: Schemas["UserPatch"]) {
  const path = { user: user.name };
  const { tag } = await answeredWithTag(api.GET("/api/v1/users/{user}", { params: { path } }));
  return answered(
    api.PATCH("/api/v1/users/{user}", { params: { path, header: { "if-match": tag } }, body }),
  );
}

interface ChangeProps {
  user: User;
  act: Act;
  onClose: () => void;
  onDrawn: Drawn;
}

function Change({ user, act, onClose, onDrawn }: ChangeProps) {
  const [role, setRole] = useState<Role>(user.role);
  const name = inert(user.name);
  const changes = ["users", "audit", "sessions", "api-tokens"];
  if (act === "role") {
    return (
      <FormDialogue
        title={`Role of ${name}`}
        act="Save"
        mayAct={role !== user.role}
        changes={changes}
        onClose={onClose}
        run={() => change(user, { role })}
      >
        <Choose label="Role" value={role} set={(value) => setRole(roleOf(value))} options={ROLES} />
        <p>It counts at once, also in sessions that are open.</p>
      </FormDialogue>
    );
  }
  const asked = {
    disable: {
      title: `Disable ${name}?`,
      act: "Disable",
      says: "All sessions and API tokens of this user open nothing from now on.",
      run: () => change(user, { disabled: true }),
    },
    enable: {
      title: `Enable ${name}?`,
      act: "Enable",
      says: user.external
        ? "This user may log in again, by the identity provider."
        : "This user may log in again, with the password from before.",
      run: () => change(user, { disabled: false }),
    },
    reset: {
      title: `Reset the password of ${name}?`,
      act: "Reset",
      says: "The password from before opens nothing any more, and all sessions of this user end. A new one is drawn and shown once.",
      run: async () => {
        const { password } = await change(user, { password: "" });
        onDrawn({ name: user.name, password });
      },
    },
    totp: {
      title: `Remove the code of ${name}?`,
      act: "Remove",
      says: "The password alone opens this account until a new app is set up; the recovery codes are void.",
      run: () => change(user, { totp: false }),
    },
    delete: {
      title: `Delete ${name}?`,
      act: "Delete",
      says: "All sessions and API tokens of this user open nothing from now on. What this user did stays in the audit.",
      run: () =>
        answered(api.DELETE("/api/v1/users/{user}", { params: { path: { user: user.name } } })),
    },
  }[act];
  return (
    <Confirm
      title={asked.title}
      act={asked.act}
      isDestructive={act !== "enable"}
      typed={act === "delete" ? user.name : undefined}
      changes={changes}
      run={asked.run}
      onClose={onClose}
    >
      <p>{asked.says}</p>
    </Confirm>
  );
}
