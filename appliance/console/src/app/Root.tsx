import { Bullseye, Modal, ModalBody, ModalHeader, Spinner } from "@patternfly/react-core";
import { useLocation } from "react-router";
import { Login } from "../routes/login/Login";
import { NewPassword } from "../routes/login/NewPassword";
import { WAY_BACK, WayBack } from "../routes/login/Oidc";
import { Failed } from "../parts/states";
import { LiveProvider } from "./live";
import { useSession } from "./session";
import { Shell } from "./Shell";

/** The login for a stranger, else the console; a session that ended is renewed over the page. */
export function Root() {
  const { session, checking, problem, ended, again } = useSession();
  const { pathname } = useLocation();
  if (pathname === WAY_BACK) {
    return (
      <main>
        <WayBack />
      </main>
    );
  }
  if (session?.must_change_password) {
    return (
      <main>
        <NewPassword />
      </main>
    );
  }
  if (session) {
    return (
      <LiveProvider key={session.user}>
        <Shell />
        {ended && (
          <Modal
            isOpen
            variant="small"
            aria-labelledby="again-title"
            className="cairn-over"
            // Beside the body: a dialogue that is open hides all else in it from screen readers.
            appendTo={() => document.documentElement}
          >
            <ModalHeader
              title="Your session has ended"
              labelId="again-title"
              description="Log in again: what you have typed is still there."
            />
            <ModalBody>
              <Login name={session.user} isInside />
            </ModalBody>
          </Modal>
        )}
      </LiveProvider>
    );
  }
  if (problem !== undefined) return <Failed what="console" error={problem} again={again} />;
  if (checking) {
    return (
      <Bullseye>
        <Spinner aria-label="Asking the appliance who you are" />
      </Bullseye>
    );
  }
  return (
    <main>
      <Login />
    </main>
  );
}
