import type { Schemas } from "../../api/client";

type Role = Schemas["Role"];
const ROLES: readonly Role[] = ["viewer", "operator", "admin"];

/** Reads lines such as "cairn-admins = admin"; a line that is none is told back. */
export function rolesOf(text: string): { roles: Record<string, Role>; wrong: string[] } {
  const roles: Record<string, Role> = {};
  const wrong: string[] = [];
  for (const line of text.split("\n").filter((each) => each.trim())) {
    const at = line.lastIndexOf("=");
    const group = line.slice(0, Math.max(at, 0)).trim();
    const role = ROLES.find((each) => each === line.slice(at + 1).trim());
    if (group && role) roles[group] = role;
    else wrong.push(line.trim());
  }
  return { roles, wrong };
}

export function textOf(roles: Record<string, Role>): string {
  return Object.entries(roles)
    .map(([group, role]) => `${group} = ${role}`)
    .join("\n");
}

/** Reads names with commas or spaces of lines between them. */
export const namesOf = (text: string): string[] =>
  text
    .split(/[,\n]/)
    .map((each) => each.trim())
    .filter(Boolean);
