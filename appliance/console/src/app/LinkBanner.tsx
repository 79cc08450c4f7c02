import { Alert, AlertActionLink, PageSection } from "@patternfly/react-core";
import { useLocation } from "react-router";
import { useCluster } from "../api/queries";
import { serverTimeOf } from "../parts/clock";
import { Age } from "../parts/text";
import { inert } from "../parts/words";
import { useLive } from "./live";

/**
 * Says that this appliance gives no answer, and where else a console is.
 *
 * A session's cookie belongs to one address, so this page can't go on through another appliance
 * by itself; what is typed here stays, and is tried again by itself.
 */
export function LinkBanner() {
  const live = useLive();
  if (live.state !== "lost") return null;
  return (
    <PageSection>
      <LinkLost />
    </PageSection>
  );
}

/** The same inside a dialogue: what is behind one can neither be read out nor clicked. */
export function LinkLost() {
  const live = useLive();
  const cluster = useCluster();
  const { pathname, search } = useLocation();
  if (live.state !== "lost") return null;
  const others = (cluster.data?.appliances ?? [])
    .filter(({ name }) => name !== live.appliance)
    .flatMap(({ name, operations }) => operations.map((address) => ({ name, address })))
    .filter(({ address }) => address !== window.location.host);
  return (
    <Alert
      variant="danger"
      isInline
      isLiveRegion
      component="p"
      title={`${live.appliance ? `The appliance ${inert(live.appliance)}` : "This appliance"} gives no answer`}
      actionLinks={others.map(({ name, address }) => (
        <AlertActionLink
          key={address}
          component="a"
          href={`https://${address}${pathname}${search}`}
          target="_blank"
          rel="noreferrer"
        >
          Go on at {inert(name)} ({inert(address)})
        </AlertActionLink>
      ))}
    >
      <p>
        Since <Age at={new Date(serverTimeOf(live.since)).toISOString()} />; what is shown is from
        before. vSubnets run on. What you have typed stays here, and this page goes on by itself
        when the appliance is back.
      </p>
      {others.length > 0 && <p>Another appliance asks you to log in there, in a tab of its own.</p>}
    </Alert>
  );
}
