import {
  Alert,
  Bullseye,
  Button,
  EmptyState,
  EmptyStateActions,
  EmptyStateBody,
  EmptyStateFooter,
  Skeleton,
} from "@patternfly/react-core";
import type { UseQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";
import { failureFrom } from "../api/failure";
import { serverTimeOf } from "./clock";
import { inert } from "./words";
import { Age } from "./text";

/** Cause and remedy of what went wrong, beside what it belongs to. */
export function FailureAlert({ error, title }: { error: unknown; title: string }) {
  const failure = failureFrom(error);
  return (
    <Alert variant="danger" isInline title={title} component="p">
      <p>{inert(failure.reason)}</p>
      {failure.remedy && <p>What to do: {inert(failure.remedy)}</p>}
    </Alert>
  );
}

interface ShownProps<T> {
  query: Pick<UseQueryResult<T>, "data" | "isError" | "error" | "refetch" | "dataUpdatedAt">;
  /** What is shown, as in "Loading nodes". */
  what: string;
  isEmpty?: (value: T) => boolean;
  empty?: { title: string; body: ReactNode; action?: ReactNode };
  children: (value: T) => ReactNode;
}

/** One of four states of what is read: loading, failed, stale, empty; else the thing itself. */
export function Shown<T>({ query, what, isEmpty, empty, children }: ShownProps<T>) {
  if (query.data === undefined) {
    if (!query.isError) return <Loading what={what} />;
    return <Failed what={what} error={query.error} again={() => void query.refetch()} />;
  }
  return (
    <>
      {query.isError && (
        <div className="cairn-below">
          <Stale error={query.error} at={query.dataUpdatedAt} what={what} />
        </div>
      )}
      {empty && isEmpty?.(query.data) ? (
        <EmptyState titleText={empty.title} headingLevel="h2" variant="lg">
          <EmptyStateBody>{empty.body}</EmptyStateBody>
          {empty.action && (
            <EmptyStateFooter>
              <EmptyStateActions>{empty.action}</EmptyStateActions>
            </EmptyStateFooter>
          )}
        </EmptyState>
      ) : (
        children(query.data)
      )}
    </>
  );
}

export function Loading({ what }: { what: string }) {
  return (
    <div role="status" aria-label={`Loading ${what}`} className="cairn-loading">
      <Skeleton width="60%" />
      <Skeleton width="90%" />
      <Skeleton width="75%" />
    </div>
  );
}

export function Failed({
  what,
  error,
  again,
}: {
  what: string;
  error: unknown;
  again: () => void;
}) {
  const failure = failureFrom(error);
  return (
    <Bullseye>
      <EmptyState status="danger" titleText={`No ${what} to show`} headingLevel="h2" role="alert">
        <EmptyStateBody>
          <p>{inert(failure.reason)}</p>
          {failure.remedy && <p>What to do: {inert(failure.remedy)}</p>}
        </EmptyStateBody>
        <EmptyStateFooter>
          <EmptyStateActions>
            <Button variant="primary" onClick={again}>
              Try again
            </Button>
          </EmptyStateActions>
        </EmptyStateFooter>
      </EmptyState>
    </Bullseye>
  );
}

function Stale({ error, at, what }: { error: unknown; at: number; what: string }) {
  const failure = failureFrom(error);
  return (
    <Alert
      variant="warning"
      isInline
      component="p"
      title={
        <>
          These {what} are as of <Age at={new Date(serverTimeOf(at)).toISOString()} />: there is no
          newer answer
        </>
      }
    >
      <p>{inert(failure.reason)}</p>
      {failure.remedy && <p>What to do: {inert(failure.remedy)}</p>}
    </Alert>
  );
}
