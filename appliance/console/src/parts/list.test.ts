import { describe, expect, it } from "vitest";
import { chosen, wantedFrom, type Column } from "./list";

interface Row {
  name: string;
  count: number;
}
const columns: Column<Row>[] = [
  { key: "name", title: "Name", text: (row) => row.name },
  { key: "count", title: "Count", text: (row) => row.count },
];
const rows = Array.from({ length: 120 }, (_, at) => ({ name: `web-${String(at)}`, count: -at }));
const wanted = { text: "", sort: "name", page: 1, size: 50 };
const names = (more: object) =>
  chosen(rows, columns, (row) => [row.name], { ...wanted, ...more }).rows.map((row) => row.name);

describe("a list", () => {
  it("is sorted as people count", () => expect(names({}).slice(1, 3)).toEqual(["web-1", "web-2"]));
  it("is sorted by number", () => expect(names({ sort: "count" })[0]).toBe("web-119"));
  it("is sorted downwards", () => expect(names({ sort: "-count" })[0]).toBe("web-0"));
  it("is searched", () => expect(names({ text: "WEB-11" })).toContain("web-119"));
  it("has pages", () => expect(names({ page: 3 })).toHaveLength(20));
  it("has a last page where the address asks for more", () =>
    expect(chosen(rows, columns, () => [], { ...wanted, page: 99 }).page).toBe(3));
  it("leaves what it was given as it was", () => expect(rows[0]?.name).toBe("web-0"));
});

describe("an address", () => {
  it("says what is wanted", () =>
    expect(wantedFrom(new URLSearchParams("q=a&sort=-count&page=2"), "name", 50)).toEqual({
      text: "a",
      sort: "-count",
      page: 2,
      size: 50,
    }));
  it("has the words of two lists apart", () =>
    expect(
      wantedFrom(new URLSearchParams("q=a&page=2&mac-q=b&mac-sort=ip"), "name", 50, "mac-"),
    ).toEqual({ text: "b", sort: "ip", page: 1, size: 50 }));
  it.each(["0", "-1", "x", "1.5"])("with page %s is taken for the first", (page) =>
    expect(wantedFrom(new URLSearchParams({ page }), "name", 50).page).toBe(1),
  );
});
