import type { Schemas } from "../../api/client";
import { listed } from "../../parts/words";

/** The form of a vSubnet as it is typed, and what is sent of it. */
export interface Fields {
  name: string;
  prefixes: string;
  reserved: string;
  mtu: string;
  bum_pps: string;
  bum_burst: string;
  ageing_s: string;
  offline_trust_s: string;
  shared_ips: string;
}

export const EMPTY: Fields = {
  name: "",
  prefixes: "",
  reserved: "",
  mtu: "1400",
  bum_pps: "200",
  bum_burst: "400",
  ageing_s: "300",
  offline_trust_s: "2592000",
  shared_ips: "",
};

type Shown = Pick<Schemas["VSubnetOut"], "name" | "prefixes" | "reserved" | "mtu" | "policy">;

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

export function fieldsOf(shown: Shown): Fields {
  return {
    name: shown.name,
    prefixes: shown.prefixes.join(", "),
    reserved: shown.reserved.join(", "),
    mtu: String(shown.mtu),
    bum_pps: String(shown.policy.bum_pps),
    bum_burst: String(shown.policy.bum_burst),
    ageing_s: String(shown.policy.ageing_s),
    offline_trust_s: String(shown.policy.offline_trust_s),
    shared_ips: shown.policy.shared_ips.join(", "),
  };
}

export function orderOf(fields: Fields) {
  return {
    name: fields.name,
    prefixes: listed(fields.prefixes),
    reserved: listed(fields.reserved),
    mtu: Number(fields.mtu),
    policy: {
      bum_pps: Number(fields.bum_pps),
      bum_burst: Number(fields.bum_burst),
      ageing_s: Number(fields.ageing_s),
      offline_trust_s: Number(fields.offline_trust_s),
      shared_ips: listed(fields.shared_ips),
    },
  };
}

/** Returns only what was changed: prefixes may only be sent while there are no members. */
export function changeOf(shown: Shown, fields: Fields): Schemas["VSubnetPatch"] {
  const before = orderOf(fieldsOf(shown));
  const after = orderOf(fields);
  const policy = differing(before.policy, after.policy);
  return {
    ...differing(
      { name: before.name, prefixes: before.prefixes, reserved: before.reserved, mtu: before.mtu },
      { name: after.name, prefixes: after.prefixes, reserved: after.reserved, mtu: after.mtu },
    ),
    ...(Object.keys(policy).length > 0 ? { policy } : {}),
  };
}

function differing<T extends object>(before: T, after: T): Partial<T> {
  const keys = Object.keys(after) as (keyof T)[];
  return Object.fromEntries(
    keys.filter((key) => !same(before[key], after[key])).map((key) => [key, after[key]]),
  ) as Partial<T>;
}
