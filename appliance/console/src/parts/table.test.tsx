import { startTransition, useLayoutEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { createBrowserRouter, RouterProvider } from "react-router";
import { expect, test } from "vitest";
import { FilterField, useParameter } from "./table";

function type(text: string): void {
  const input = document.querySelector("input");
  if (!input) throw new Error("no input");
  const setter = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value")?.set;
  setter?.call(input, text);
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

/** The address, which follows a moment later, and a person who types on just then. */
function Page({ asked }: { asked: string[] }) {
  const [address, setAddress] = useState("");
  useLayoutEffect(() => {
    if (address === "v") type("vm");
  }, [address]);
  const set = (text: string): void => {
    asked.push(text);
    if (text === "v") setTimeout(() => startTransition(() => setAddress(text)));
  };
  return <FilterField label="Filter" placeholder="" value={address} set={set} />;
}

test("what is typed while the address catches up stays", async () => {
  const asked: string[] = [];
  const root = createRoot(document.body.appendChild(document.createElement("div")));
  root.render(<Page asked={asked} />);
  await expect.poll(() => document.querySelector("input")).not.toBeNull();
  type("v");
  await expect.poll(() => asked).toEqual(["v", "vm"]);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(document.querySelector("input")?.value).toBe("vm");
  root.unmount();
});

/** A list whose order is chosen before the page that was asked for is drawn. */
function List() {
  const set = useParameter();
  return (
    <button
      onClick={() => {
        set("q", "vm");
        void Promise.resolve().then(() => set("sort", "name"));
      }}
    />
  );
}

test("two parameters that are set quickly are both in the address", async () => {
  const root = createRoot(document.body.appendChild(document.createElement("div")));
  root.render(<RouterProvider router={createBrowserRouter([{ path: "/", element: <List /> }])} />);
  await expect.poll(() => document.querySelector("button")).not.toBeNull();
  document.querySelector("button")?.click();
  await expect.poll(() => window.location.search).toContain("sort");
  expect(window.location.search).toBe("?q=vm&sort=name");
  root.unmount();
});
