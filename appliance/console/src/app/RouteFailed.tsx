import { Button, EmptyState, EmptyStateBody, EmptyStateFooter } from "@patternfly/react-core";
import { useRouteError } from "react-router";
import { inert } from "../parts/words";

/** What a page shows that broke: its files may be those of another version. */
export function RouteFailed() {
  const error = useRouteError();
  const reason = error instanceof Error ? error.message : String(error);
  return (
    <EmptyState status="danger" titleText="This page could not be shown" headingLevel="h1">
      <EmptyStateBody>
        <p>{inert(reason)}</p>
        <p>
          What to do: reload once this browser reaches the appliance. After an upgrade of the
          appliance this page may be of the version before; if it fails again, report it.
        </p>
      </EmptyStateBody>
      <EmptyStateFooter>
        <Button onClick={() => window.location.reload()}>Reload</Button>
      </EmptyStateFooter>
    </EmptyState>
  );
}
