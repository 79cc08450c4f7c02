import { describe, expect, it } from "vitest";
import { ageOf, inert, lengthOf, octets, plural } from "./words";

describe("ages", () => {
  it.each([
    [0, "just now"],
    [900, "just now"],
    [1_000, "1 s ago"],
    [59_999, "59 s ago"],
    [60_000, "1 min ago"],
    [7_200_000, "2 h ago"],
    [3 * 86_400_000, "3 d ago"],
    [-90_000, "in 1 min"],
    [-2_900, "just now"],
    [-3_000, "in 3 s"],
  ])("of %d ms is %s", (ms, expected) => expect(ageOf(1e12, 1e12 + ms)).toBe(expected));
  it("has a length", () => expect(lengthOf(86_400)).toBe("1 d"));
});

describe("foreign text", () => {
  it.each([
    ["web-1", "web-1"],
    ["a\u202eb", "a⟨U+202E⟩b"],
    ["a\u0000\u001b[31m", "a⟨U+0000⟩⟨U+001B⟩[31m"],
    ["a\u200bb\ufeff", "a⟨U+200B⟩b⟨U+FEFF⟩"],
    ["line\nline", "line⟨U+000A⟩line"],
    ["<img src=x onerror=alert(1)>", "<img src=x onerror=alert(1)>"],
    ["büro 東京", "büro 東京"],
  ])("%j is shown as %s", (text, shown) => expect(inert(text)).toBe(shown));
  it("is bounded", () => expect(inert("x".repeat(9_999)).length).toBe(501));
});

describe("numbers", () => {
  it("have units", () => {
    expect(octets(0)).toBe("0 B");
    expect(octets(1536)).toBe("1.5 KiB");
    expect(plural(1, "node")).toBe("1 node");
    expect(plural(1200, "node")).toBe("1,200 nodes");
  });
});
