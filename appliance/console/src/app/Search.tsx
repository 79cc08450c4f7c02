import { Menu, MenuContent, MenuItem, MenuList, SearchInput } from "@patternfly/react-core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";
import { useNavigate } from "react-router";
import { Foreign } from "../parts/text";
import { failureFrom } from "../api/failure";
import { inert } from "../parts/words";
import { answered, api } from "../api/client";

const WAIT_MS = 200;

/** Finds anything by name, MAC, IP or ID. */
export function Search() {
  const [text, setText] = useState("");
  const [asked, setAsked] = useState("");
  const box = useRef<HTMLDivElement>(null);
  const navigate = useNavigate();
  useEffect(() => {
    const timer = setTimeout(() => setAsked(text.trim()), WAIT_MS);
    return () => clearTimeout(timer);
  }, [text]);
  const found = useQuery({
    queryKey: ["search", asked],
    queryFn: async ({ signal }) => {
      const query = { q: asked };
      return (await answered(api.GET("/api/v1/search", { params: { query }, signal }))).items;
    },
    enabled: asked.length > 1,
    refetchInterval: false,
  });
  const go = (link: string): void => {
    setText("");
    setAsked("");
    void navigate(link);
  };
  const isOpen = asked.length > 1 && text !== "";
  return (
    <div
      className="cairn-search"
      ref={box}
      role="search"
      onKeyDown={(event) => {
        if (event.key === "Escape") setText("");
        if (event.key === "ArrowDown" && isOpen) {
          box.current?.querySelector<HTMLElement>('[role="menuitem"]')?.focus();
          event.preventDefault();
        }
      }}
      onBlur={(event) => {
        if (!event.currentTarget.contains(event.relatedTarget)) setAsked("");
      }}
      onFocus={() => setAsked(text.trim())}
    >
      <SearchInput
        aria-label="Search everything"
        placeholder="Name, MAC, IP or ID"
        value={text}
        onChange={(_, value) => setText(value)}
        onClear={() => setText("")}
        onSearch={() => {
          const first = found.data?.[0];
          if (first) go(first.link);
        }}
      />
      {isOpen && (
        <Menu
          className="cairn-found"
          onSelect={(_, link) => {
            if (typeof link === "string" && link) go(link);
          }}
        >
          <MenuContent>
            <MenuList aria-label="Found">
              {found.data?.map((each) => (
                <MenuItem
                  key={`${each.kind}/${each.id}`}
                  itemId={each.link}
                  isDisabled={each.kind === "segment"} // it has no page yet: `cairn gateway` shows it
                  description={<Foreign text={`${each.kind}, ${each.where} ${each.matched}`} />}
                >
                  <Foreign text={each.name} />
                </MenuItem>
              ))}
              {found.data?.length === 0 && <MenuItem isDisabled>Nothing is called that</MenuItem>}
              {found.isPending && <MenuItem isDisabled>Searching</MenuItem>}
              {found.isError && !found.data && (
                <MenuItem isDisabled>{inert(failureFrom(found.error).reason)}</MenuItem>
              )}
            </MenuList>
          </MenuContent>
        </Menu>
      )}
    </div>
  );
}
