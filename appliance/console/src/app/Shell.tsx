import {
  Button,
  FormSelect,
  FormSelectOption,
  Masthead,
  MastheadBrand,
  MastheadContent,
  MastheadLogo,
  MastheadMain,
  MastheadToggle,
  Nav,
  NavItem,
  NavList,
  Page,
  PageSidebar,
  PageSidebarBody,
  PageToggleButton,
} from "@patternfly/react-core";
import { useMutation } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { Link, Outlet, useLocation } from "react-router";
import logo from "../cairn.svg";
import { Foreign } from "../parts/text";
import { FailureAlert } from "../parts/states";
import { LinkBanner } from "./LinkBanner";
import { Search } from "./Search";
import { chooseTheme, storedTheme, type Theme } from "./theme";
import { PAGES } from "./pages";
import { useSession } from "./session";

/** Masthead, navigation and the page that the address names. */
export function Shell() {
  const { pathname } = useLocation();
  const main = useRef(pathname);
  useEffect(() => {
    // A new page is read from its beginning, by a screen reader too.
    if (main.current === pathname) return;
    main.current = pathname;
    document.getElementById("main")?.focus({ preventScroll: true });
  }, [pathname]);
  return (
    <>
      <a className="cairn-skip pf-v6-c-button pf-m-primary" href="#main">
        Skip to content
      </a>
      <Page
        masthead={<Head />}
        sidebar={<Side pathname={pathname} />}
        isManagedSidebar
        mainContainerId="main"
        mainTabIndex={-1}
        mainAriaLabel="Page"
      >
        <LinkBanner />
        <Outlet />
      </Page>
    </>
  );
}

function Head() {
  return (
    <Masthead>
      <MastheadMain>
        <MastheadToggle>
          <PageToggleButton isHamburgerButton aria-label="Navigation" />
        </MastheadToggle>
        <MastheadBrand>
          <MastheadLogo component={(props) => <Link {...props} to="/" />}>
            <span className="cairn-brand">
              <img src={logo} alt="" /> Cairn
            </span>
          </MastheadLogo>
        </MastheadBrand>
      </MastheadMain>
      <MastheadContent>
        <div className="cairn-masthead">
          <Search />
          <Person />
        </div>
      </MastheadContent>
    </Masthead>
  );
}

function Person() {
  const { session, logout } = useSession();
  const [theme, setTheme] = useState(storedTheme);
  const leaving = useMutation({ mutationFn: logout });
  return (
    <>
      <div>
        <FormSelect
          aria-label="Theme"
          value={theme}
          onChange={(_, value) => {
            setTheme(value as Theme);
            chooseTheme(value as Theme);
          }}
        >
          <FormSelectOption value="system" label="Theme: system" />
          <FormSelectOption value="light" label="Theme: light" />
          <FormSelectOption value="dark" label="Theme: dark" />
        </FormSelect>
      </div>
      <span>
        <Foreign text={session?.user ?? ""} /> ({session?.role})
      </span>
      <Button variant="secondary" isLoading={leaving.isPending} onClick={() => leaving.mutate()}>
        Log out
      </Button>
      {leaving.isError && <FailureAlert error={leaving.error} title="Not logged out" />}
    </>
  );
}

function Side({ pathname }: { pathname: string }) {
  const at = pathname.startsWith("/segments/") ? "/gateways" : pathname;
  const isAt = (path: string): boolean =>
    path === "/" ? at === "/" : at === path || at.startsWith(`${path}/`);
  return (
    <PageSidebar>
      <PageSidebarBody>
        <Nav aria-label="Pages">
          <NavList>
            {PAGES.map(({ path, title }) => (
              <NavItem key={path} isActive={isAt(path)}>
                <Link to={path} aria-current={isAt(path) ? "page" : undefined}>
                  {title}
                </Link>
              </NavItem>
            ))}
          </NavList>
        </Nav>
      </PageSidebarBody>
    </PageSidebar>
  );
}
