import { Tab, Tabs, TabTitleText } from "@patternfly/react-core";
import { useSearchParams } from "react-router";
import { useMay } from "../../app/session";
import { Page } from "../../parts/page";
import { ApiTokens } from "./ApiTokens";
import { Own } from "./Own";
import { Sessions } from "./Sessions";
import { Users } from "./Users";

/** Who may do what here, what is logged in, and one's own password and code. */
export function Component() {
  const [search, setSearch] = useSearchParams();
  const isAdmin = useMay("admin");
  const views = [
    { key: "own", title: "Your account", view: <Own /> },
    ...(isAdmin ? [{ key: "users", title: "Users", view: <Users /> }] : []),
    { key: "sessions", title: "Sessions", view: <Sessions /> },
    { key: "api-tokens", title: "API tokens", view: <ApiTokens /> },
  ];
  const asked = search.get("view");
  const active = views.some(({ key }) => key === asked) ? (asked ?? "own") : "own";
  return (
    <Page title="Access" lead="Who may log in, what they may, and where they are logged in now.">
      <Tabs
        activeKey={active}
        aria-label="Views of access"
        mountOnEnter
        unmountOnExit
        onSelect={(_, key) => setSearch({ view: String(key) })}
      >
        {views.map(({ key, title, view }) => (
          <Tab key={key} eventKey={key} title={<TabTitleText>{title}</TabTitleText>}>
            <div className="cairn-gap">{view}</div>
          </Tab>
        ))}
      </Tabs>
    </Page>
  );
}
