import { Button, Popover } from "@patternfly/react-core";
import glossary from "../../../../docs/glossary.md?raw";

/** The glossary's table: term -> meaning; a row may name several terms. */
function read(markdown: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const line of markdown.split("\n")) {
    const [, terms, meaning] = line.split("|");
    if (!terms || !meaning || terms.includes("---")) continue;
    for (const term of terms.split(/[,/]/)) found.set(term.trim().toLowerCase(), meaning.trim());
  }
  return found;
}

const MEANINGS = read(glossary);

/** A question mark that says what a word of the glossary means. */
export function Help({ word }: { word: string }) {
  const meaning = MEANINGS.get(word.toLowerCase());
  if (!meaning) return null;
  return (
    <Popover aria-label={word} headerContent={word} bodyContent={meaning}>
      <Button
        variant="plain"
        size="sm"
        className="cairn-help"
        aria-label={`What is meant by ${word}`}
      >
        ?
      </Button>
    </Popover>
  );
}
