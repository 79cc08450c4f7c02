import { Alert, Button, Card, CardBody, CardTitle } from "@patternfly/react-core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { answered, answeredWithTag, api, type Schemas } from "../../api/client";
import { Confirm } from "../../parts/confirm";
import { Facts } from "../../parts/facts";
import { FailureAlert, Shown } from "../../parts/states";
import { Foreign } from "../../parts/text";
import { inert } from "../../parts/words";
import { ProviderForm } from "./ProviderForm";

type Provider = Schemas["OidcOut"];
const CHANGES = ["settings", "login-methods", "audit"];

/** By whom people may log in beside their passwords here. */
export function IdentityProvider() {
  const provider = useQuery({
    queryKey: ["settings", "oidc"],
    queryFn: ({ signal }) => answeredWithTag(api.GET("/api/v1/settings/oidc", { signal })),
  });
  const [isOpen, setOpen] = useState(false);
  const [isRemoving, setRemoving] = useState(false);
  const testing = useMutation({
    mutationFn: () => answered(api.POST("/api/v1/settings/oidc/test")),
  });
  return (
    <Card>
      <CardTitle component="h2">Login by an identity provider</CardTitle>
      <CardBody className="cairn-stack">
        {testing.isError && <FailureAlert error={testing.error} title="It was not tested" />}
        {testing.data && <Tested tested={testing.data} />}
        <Shown
          query={provider}
          what="identity provider"
          isEmpty={({ value }) => !value.issuer}
          empty={{
            title: "People log in with name and password only",
            body: (
              <>
                An OpenID provider (Keycloak, Entra ID, Okta ...) can vouch for them. Register a
                client there that goes back to{" "}
                <Foreign text={provider.data?.value.redirect_uri ?? ""} code />, by code with PKCE.
              </>
            ),
            action: <Button onClick={() => setOpen(true)}>Set an identity provider</Button>,
          }}
        >
          {({ value }) => (
            <>
              <About provider={value} />
              <span className="cairn-actions">
                <Button
                  variant="secondary"
                  isLoading={testing.isPending}
                  isDisabled={testing.isPending}
                  onClick={() => testing.mutate()}
                >
                  Test the provider
                </Button>
                <Button variant="secondary" onClick={() => setOpen(true)}>
                  Change the provider
                </Button>
                <Button variant="secondary" isDanger onClick={() => setRemoving(true)}>
                  Remove the provider
                </Button>
              </span>
            </>
          )}
        </Shown>
        {isOpen && provider.data && (
          <ProviderForm
            provider={provider.data.value}
            tag={provider.data.tag}
            changes={CHANGES}
            onClose={() => setOpen(false)}
          />
        )}
        {isRemoving && provider.data && (
          <Confirm
            title={`Remove ${inert(provider.data.value.name)}?`}
            act="Remove"
            isDestructive
            changes={CHANGES}
            onClose={() => setRemoving(false)}
            run={() => answered(api.DELETE("/api/v1/settings/oidc"))}
          >
            <p>
              Nobody logs in by <Foreign text={provider.data.value.issuer} code /> any more. Users
              who came by it stay in the list, without a way in; their open sessions and API tokens
              go on until they end. The client's secret and the roles of groups are forgotten.
            </p>
          </Confirm>
        )}
      </CardBody>
    </Card>
  );
}

function About({ provider }: { provider: Provider }) {
  const roles = Object.entries(provider.roles ?? {});
  return (
    <Facts
      facts={[
        ["Button", <Foreign key="name" text={provider.name ?? ""} />],
        ["Issuer", <Foreign key="issuer" text={provider.issuer} code />],
        ["Client", <Foreign key="client" text={provider.client_id} code />],
        ["Client's secret", provider.has_secret ? "set; it is never shown" : "none"],
        ["Goes back to", <Foreign key="back" text={provider.redirect_uri} code />],
        [
          "Roles",
          roles.length > 0 ? (
            <ul key="roles">
              {roles.map(([group, role]) => (
                <li key={group}>
                  <Foreign text={group} code /> is {role}
                </li>
              ))}
            </ul>
          ) : (
            "no group has one"
          ),
        ],
        ["All others", provider.default_role ?? "may not log in"],
        ["Only domains", inert((provider.allowed_domains ?? []).join(", ")) || "any"],
        ["Only groups", inert((provider.allowed_groups ?? []).join(", ")) || "any"],
      ]}
    />
  );
}

function Tested({ tested }: { tested: Schemas["OidcTestOut"] }) {
  return (
    <Alert
      variant={tested.ok ? "success" : "danger"}
      isInline
      isLiveRegion
      component="p"
      title={
        tested.ok
          ? `The provider answers, with ${String(tested.keys)} ${tested.keys === 1 ? "key" : "keys"}`
          : "The provider can't be used as it is"
      }
    >
      {!tested.ok && <p>{inert(tested.error ?? "")}</p>}
      {tested.remedy && <p>What to do: {inert(tested.remedy)}</p>}
    </Alert>
  );
}
