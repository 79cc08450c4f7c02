/** How a machine that has the agent is told its token; the secret is never in a command line. */

export interface Recipe {
  key: string;
  title: string;
  lead: string;
  text: string;
}

export function recipesFor(token: string): Recipe[] {
  return [
    {
      key: "shell",
      title: "Shell",
      lead: "As root on the machine that is to join:",
      text: `cairn-agent join - <<'TOKEN'\n${token}\nTOKEN\ncairn-agent status`,
    },
    {
      key: "ansible",
      title: "Ansible",
      lead: "A task for the hosts that are to join; those that are nodes already are left alone:",
      text: `- name: Join Cairn
  become: true
  no_log: true
  ansible.builtin.command:
    cmd: cairn-agent join -
    stdin: ${token}
    creates: /var/lib/cairn/identity.json`,
    },
    {
      key: "cloud-init",
      title: "cloud-init",
      lead: "User data of an image that has the agent:",
      text: `#cloud-config
write_files:
  - path: /run/cairn-token
    permissions: "0600"
    content: ${token}
runcmd:
  - cairn-agent join - </run/cairn-token && rm /run/cairn-token`,
    },
  ];
}
