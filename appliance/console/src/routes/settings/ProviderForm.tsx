import { FormGroup, TextArea } from "@patternfly/react-core";
import { useState } from "react";
import { answered, api, type Schemas } from "../../api/client";
import { FormDialogue } from "../../parts/dialogue";
import { Choose, Field } from "../../parts/field";
import { inert } from "../../parts/words";
import { namesOf, rolesOf, textOf } from "./provider";

const ROLES = (["viewer", "operator", "admin"] as const).map((value) => ({ value, label: value }));

interface ProviderFormProps {
  provider: Schemas["OidcOut"];
  tag: string;
  changes: string[];
  onClose: () => void;
}

/** Sets the identity provider; its secret is written, never read. */
export function ProviderForm({ provider, tag, changes, onClose }: ProviderFormProps) {
  const isNew = !provider.issuer;
  const [name, setName] = useState(provider.name ?? "");
  const [issuer, setIssuer] = useState(provider.issuer);
  const [client, setClient] = useState(provider.client_id);
  const [secret, setSecret] = useState("");
  const [groups, setGroups] = useState(textOf(provider.roles ?? {}));
  const [others, setOthers] = useState<string>(provider.default_role ?? "");
  const [roleClaim, setRoleClaim] = useState(provider.role_claim ?? "groups");
  const [userClaim, setUserClaim] = useState(provider.user_claim ?? "preferred_username");
  const [scopes, setScopes] = useState((provider.scopes ?? []).join(", "));
  const [domains, setDomains] = useState((provider.allowed_domains ?? []).join(", "));
  const [only, setOnly] = useState((provider.allowed_groups ?? []).join(", "));
  const [ca, setCa] = useState(provider.ca ?? "");
  const { roles, wrong } = rolesOf(groups);
  const run = () =>
    answered(
      api.PUT("/api/v1/settings/oidc", {
        params: { header: { "if-match": tag } },
        body: {
          name,
          issuer,
          client_id: client,
          // Left out, the one that it has stays.
          ...(secret || isNew ? { client_secret: secret } : {}),
          roles,
          default_role: ROLES.find(({ value }) => value === others)?.value ?? null,
          role_claim: roleClaim,
          user_claim: userClaim,
          scopes: namesOf(scopes),
          allowed_domains: namesOf(domains),
          allowed_groups: namesOf(only),
          ca,
        },
      }),
    );
  return (
    <FormDialogue
      title={isNew ? "Set an identity provider" : "Change the identity provider"}
      act="Save"
      mayAct={Boolean(name && issuer && client) && wrong.length === 0}
      changes={changes}
      onClose={onClose}
      run={run}
    >
      <Field label="Name on the button" value={name} set={setName} isRequired maxLength={64} />
      <Field
        label="Issuer"
        value={issuer}
        set={setIssuer}
        isRequired
        help="https://HOST/PATH, exactly as the provider calls itself"
      />
      <Field label="Client ID" value={client} set={setClient} isRequired />
      <Field
        label="Client secret"
        type="password"
        autoComplete="new-password"
        value={secret}
        set={setSecret}
        help={isNew ? "Empty: a public client" : "Empty: the one that it has"}
      />
      <FormGroup label="Roles of groups, one a line: group = role" fieldId="provider-roles">
        <TextArea
          id="provider-roles"
          rows={4}
          value={groups}
          validated={wrong.length > 0 ? "error" : "default"}
          aria-describedby={wrong.length > 0 ? "provider-roles-wrong" : undefined}
          onChange={(_, value) => setGroups(value)}
        />
        {wrong.length > 0 && (
          <p id="provider-roles-wrong">
            No group with viewer, operator or admin: {inert(wrong.join(" / "))}
          </p>
        )}
      </FormGroup>
      <Choose
        label="Role of all others"
        value={others}
        set={setOthers}
        options={ROLES}
        none="they may not log in"
      />
      <Field label="Only mail domains" value={domains} set={setDomains} help="Empty: any" />
      <Field label="Only groups" value={only} set={setOnly} help="Empty: any" />
      <Field label="Claim with the groups" value={roleClaim} set={setRoleClaim} isRequired />
      <Field label="Claim with the name" value={userClaim} set={setUserClaim} isRequired />
      <Field
        label="Scopes to ask for"
        value={scopes}
        set={setScopes}
        help="Beside openid, profile and email"
      />
      <FormGroup label="CA to believe, PEM; empty: the appliance's system" fieldId="provider-ca">
        <TextArea id="provider-ca" rows={4} value={ca} onChange={(_, value) => setCa(value)} />
      </FormGroup>
    </FormDialogue>
  );
}
