import { EmptyState, EmptyStateBody } from "@patternfly/react-core";
import { Link } from "react-router";
import { Page } from "../parts/page";

export function Component() {
  return (
    <Page title="No such page">
      <EmptyState titleText="There is no such page" headingLevel="h2">
        <EmptyStateBody>
          Begin at the <Link to="/">overview</Link>, or search by name, MAC, IP or ID above.
        </EmptyStateBody>
      </EmptyState>
    </Page>
  );
}
