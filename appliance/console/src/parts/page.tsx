import { Content, Flex, FlexItem, PageSection, Title } from "@patternfly/react-core";
import { useEffect, type ReactNode } from "react";

interface PageProps {
  title: string;
  shownTitle?: ReactNode;
  help?: ReactNode;
  lead?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
}

/** A page: its title, which the tab has too, what can be done, and its content. */
export function Page({ title, shownTitle, help, lead, actions, children }: PageProps) {
  useEffect(() => {
    document.title = `${title} · Cairn`;
  }, [title]);
  return (
    <>
      <PageSection>
        <Flex
          justifyContent={{ default: "justifyContentSpaceBetween" }}
          alignItems={{ default: "alignItemsCenter" }}
        >
          <FlexItem>
            <Title headingLevel="h1">
              {shownTitle ?? title} {help}
            </Title>
            {lead && <Content component="p">{lead}</Content>}
          </FlexItem>
          {actions && <FlexItem className="cairn-actions">{actions}</FlexItem>}
        </Flex>
      </PageSection>
      <PageSection isFilled>{children}</PageSection>
    </>
  );
}
