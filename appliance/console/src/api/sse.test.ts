import { expect, it } from "vitest";
import { EventParser } from "./sse";

const STREAM =
  'event: hello\r\nid: 7/a\r\ndata: {"a":1}\r\n\r\n: comment\ndata: x\ndata: y\n\nevent: beat\n\n';

it.each([1, 2, 3, 7, 1000])("reads the same in pieces of %d characters", (size) => {
  const parser = new EventParser();
  const events = [];
  for (let at = 0; at < STREAM.length; at += size) {
    events.push(...parser.push(STREAM.slice(at, at + size)));
  }
  expect(events).toEqual([
    { type: "hello", id: "7/a", data: '{"a":1}' },
    { type: "message", id: "7/a", data: "x\ny" },
  ]);
});
