import { Bullseye, Button, Spinner } from "@patternfly/react-core";
import { useMutation, useQuery } from "@tanstack/react-query";
import { useEffect } from "react";
import { useNavigate } from "react-router";
import { answered, api, type Schemas } from "../../api/client";
import { useSession } from "../../app/session";
import { FailureAlert } from "../../parts/states";
import { inert } from "../../parts/words";

export const WAY_BACK = "/oidc";
const KEPT_MS = 60_000;

/** Goes to the identity provider, where one is set; `isInside`: over a page that must stay. */
export function ByProvider({ isInside }: { isInside: boolean }) {
  const { refused, resume } = useSession();
  const methods = useQuery({
    queryKey: ["login-methods"],
    staleTime: KEPT_MS,
    refetchInterval: false,
    queryFn: ({ signal }) => answered(api.GET("/api/v1/login-methods", { signal })),
  });
  const going = useMutation({
    mutationFn: async () => {
      const here = window.location.pathname + window.location.search;
      const to = here.startsWith(WAY_BACK) ? "/" : here;
      return answered(api.GET("/api/v1/oidc/login", { params: { query: { to } } }));
    },
    onSuccess: ({ url }) => window.location.assign(url),
  });
  const returning = useMutation({ mutationFn: resume });
  const provider = methods.data?.oidc;
  const problem: unknown = going.error ?? refused;
  const failed = problem ? <FailureAlert error={problem} title="Not logged in" /> : null;
  if (!provider) return failed;
  const label = `Sign in with ${inert(provider.name)}`;
  if (isInside) {
    return (
      <>
        {returning.isError && <FailureAlert error={returning.error} title="Not logged in yet" />}
        <span className="cairn-actions">
          <Button variant="secondary" component="a" href="/" target="_blank">
            {label} in another tab
          </Button>
          <Button
            variant="secondary"
            isLoading={returning.isPending}
            onClick={() => returning.mutate()}
          >
            I have done so
          </Button>
        </span>
      </>
    );
  }
  return (
    <>
      {!going.isPending && failed}
      <Button
        variant="secondary"
        isBlock
        isLoading={going.isPending || going.isSuccess}
        isDisabled={going.isPending}
        onClick={() => going.mutate()}
      >
        {label}
      </Button>
    </>
  );
}

let brought: Promise<string> | undefined; // a login opens once, however often this is drawn

/** Takes what the provider has sent the browser back with; the address forgets it at once. */
export function WayBack() {
  const { enter } = useSession();
  const navigate = useNavigate();
  useEffect(() => {
    brought ??= enter(backOf(window.location.search));
    window.history.replaceState(null, "", WAY_BACK);
    void brought.then((to) => navigate(to, { replace: true }));
  }, [enter, navigate]);
  return (
    <Bullseye>
      <Spinner aria-label="Logging in" />
    </Bullseye>
  );
}

function backOf(search: string): Schemas["OidcBack"] {
  const said = new URLSearchParams(search);
  const part = (name: string): string => said.get(name) ?? "";
  return {
    state: part("state") || "none",
    code: part("code"),
    iss: part("iss"),
    error: part("error"),
  };
}
