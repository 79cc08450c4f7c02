import { expect, test } from "vitest";
import { namesOf, rolesOf, textOf } from "./provider";

test("groups are read with their roles, and what is none is told back", () => {
  const { roles, wrong } = rolesOf("cairn-admins = admin\n\n a=b = viewer \nstaff\nboard = king");
  expect(roles).toEqual({ "cairn-admins": "admin", "a=b": "viewer" });
  expect(wrong).toEqual(["staff", "board = king"]);
  expect(rolesOf(textOf(roles)).roles).toEqual(roles);
});

test("names are what stands between commas", () => {
  expect(namesOf("a, b c,\n, d")).toEqual(["a", "b c", "d"]);
});
