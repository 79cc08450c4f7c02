import { describe, expect, it } from "vitest";
import { changeOf, EMPTY, fieldsOf, orderOf } from "./fields";

const SHOWN = {
  name: "office",
  prefixes: ["10.7.0.0/24", "fd00:7::/64"],
  reserved: [],
  mtu: 1400,
  policy: {
    bum_pps: 200,
    bum_burst: 400,
    ageing_s: 300,
    offline_trust_s: 0,
    shared_ips: ["10.7.0.9"],
  },
};

describe("the form of a vSubnet", () => {
  it("sends nothing that was not changed", () =>
    expect(changeOf(SHOWN, fieldsOf(SHOWN))).toEqual({}));
  it("sends what was changed", () =>
    expect(changeOf(SHOWN, { ...fieldsOf(SHOWN), mtu: "1380", shared_ips: "" })).toEqual({
      mtu: 1380,
      policy: { shared_ips: [] },
    }));
  it("takes lists with commas, blanks or both", () =>
    expect(orderOf({ ...EMPTY, prefixes: " 10.0.0.0/8 ,fd00::/64\n" }).prefixes).toEqual([
      "10.0.0.0/8",
      "fd00::/64",
    ]));
});
