import { describe, expect, it } from "vitest";
import { betweenSites, lineOf, matrixOf, NO_SITE } from "./matrix";

const ROWS = [
  { a: "1", b: "2", rtt_ms: 10, loss: 0 },
  { a: "3", b: "1", rtt_ms: 30, loss: 0.5 },
  { a: "2", b: "3", rtt_ms: 20, loss: null },
  { a: "2", b: "gone", rtt_ms: 99, loss: 0 },
];
const SITES: Record<string, string> = { "1": "east", "2": "east", "3": "west" };

describe("the matrix", () => {
  it("has the worst of all pairs of two sites, both ways", () => {
    const matrix = matrixOf(ROWS, (node) => SITES[node]);
    expect(matrix.names).toEqual(["east", "west"]);
    expect(matrix.at("east", "west")).toEqual({ rtt_ms: 30, loss: 0.5, pairs: 2 });
    expect(matrix.at("west", "east")).toBe(matrix.at("east", "west"));
    expect(matrix.at("east", "east")).toEqual({ rtt_ms: 10, loss: 0, pairs: 1 });
    expect(matrix.at("west", "west")).toBeUndefined();
  });
});

it("two sites are named once where they are the same, and none is no name", () => {
  expect(betweenSites("east", "west")).toBe("east and west");
  expect(betweenSites("east", "east")).toBe("nodes of east");
  expect(betweenSites(NO_SITE, NO_SITE)).toBe("nodes without a site");
});

describe("a line", () => {
  it("goes from left to right, the highest at the top", () =>
    expect(lineOf([0, 5, 10], 100, 40)).toEqual({
      points: "0.0,40.0 50.0,20.0 100.0,0.0",
      most: 10,
    }));
  it("of one point is a dot at the right", () =>
    expect(lineOf([5], 100, 40)).toEqual({ points: "99.9,0.0 100.0,0.0", most: 5 }));
  it("may have no point", () => expect(lineOf([], 100, 40).points).toBe(""));
});
