/** One server-sent event. */
export interface StreamEvent {
  type: string;
  id: string;
  data: string;
}

/** Reads server-sent events out of pieces of text as they come (WHATWG HTML 9.2.6). */
export class EventParser {
  private rest = "";
  private type = "";
  private data: string[] = [];
  private id = "";

  push(piece: string): StreamEvent[] {
    const events: StreamEvent[] = [];
    const text = this.rest + piece;
    // A lone CR at the end may be the first half of CR LF: it waits for the next piece.
    const end = text.endsWith("\r") ? text.length - 1 : text.length;
    const lines = text.slice(0, end).split(/\r\n|\n|\r/);
    this.rest = (lines.pop() ?? "") + text.slice(end);
    for (const line of lines) {
      const event = this.line(line);
      if (event) events.push(event);
    }
    return events;
  }

  private line(line: string): StreamEvent | undefined {
    if (line === "") return this.dispatch();
    if (line.startsWith(":")) return undefined;
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.type = value;
    if (field === "data") this.data.push(value);
    if (field === "id" && !value.includes("\0")) this.id = value;
    return undefined;
  }

  private dispatch(): StreamEvent | undefined {
    const { type, data, id } = this;
    this.type = "";
    this.data = [];
    if (data.length === 0) return undefined;
    return { type: type || "message", id, data: data.join("\n") };
  }
}
