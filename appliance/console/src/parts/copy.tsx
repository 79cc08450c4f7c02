import { Button, CodeBlock, CodeBlockAction, CodeBlockCode } from "@patternfly/react-core";
import { useState } from "react";

/** Text to be pasted elsewhere, with a button that says whether it is on the clipboard. */
export function Copy({ text, label }: { text: string; label: string }) {
  const [said, setSaid] = useState("");
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      setSaid("Copied");
    } catch {
      setSaid("The browser refuses: mark the text and copy it");
    }
  };
  return (
    <CodeBlock
      actions={
        <CodeBlockAction>
          <Button variant="secondary" size="sm" onClick={() => void copy()}>
            Copy {label}
          </Button>
          <span role="status" className="cairn-said">
            {said}
          </span>
        </CodeBlockAction>
      }
    >
      <CodeBlockCode className="cairn-code">{text}</CodeBlockCode>
    </CodeBlock>
  );
}
