"""The audit of a real appliance: over HTTPS, through a crash, with what it keeps on its disk."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from cairn_agent.control.tls import server_context
from cairn_appliance.cluster import bootstrap
from cairn_appliance.domain import audit
from cairn_appliance.pki.audit_key import AuditKey

from tests.integration.appliance.running import RunningAppliance

pytestmark = pytest.mark.etcd


def test_what_was_done_is_recorded_across_a_crash(tmp_path: Path) -> None:
    appliance = RunningAppliance(tmp_path)
    try:
        appliance.start()
        base = f"https://127.0.0.1:{appliance.settings.ops_port}/api/v1"
        with httpx.Client(verify=server_context(appliance.ca), trust_env=False) as client:
            login = {"name": "admin", "password": appliance.made.admin_password}
            opened = client.post(f"{base}/login", json=login)
            client.headers["Authorization"] = f"Bearer {opened.json()['token']}"
            for number in range(5):
                made = client.post(f"{base}/vsubnets", json={"name": f"net-{number}"})
                assert made.status_code == 201, made.text
        appliance.end(signal.SIGKILL)  # the last outcome may not have been written yet
        appliance.start()
        with httpx.Client(verify=server_context(appliance.ca), trust_env=False) as client:
            client.headers["Authorization"] = f"Bearer {opened.json()['token']}"
            told = client.get(f"{base}/audit/verify").json()
            assert told["ok"] is True, told
            items = client.get(f"{base}/audit").json()["items"]
            asked = [each for each in items if each["kind"] == "asked"]
            assert [each["details"].get("name", "") for each in asked] == [
                *(f"net-{number}" for number in reversed(range(5))),
                "",
            ]
            assert asked[-1]["action"] == "POST /api/v1/login"
            assert asked[-1]["actor"]["name"] == "admin"
            assert {each["outcome"] for each in asked} <= {"done", "unknown"}
            assert asked[0]["request_id"] == made.headers["x-request-id"]
            lines = client.get(f"{base}/audit/export").content.splitlines()
        local = bootstrap.load(appliance.data_dir)
        seal = AuditKey(local.sealer).seal(local.cluster_id)
        _, (report,) = audit.examine_file(lines, seal)
        assert (report.appliance, report.problem) == (local.member, "")
        marks = appliance.data_dir / "audit" / "marks.json"
        assert marks.stat().st_mode & 0o777 == 0o600
        found = subprocess.run(
            ["grep", "-c", "audit is not as it was", str(appliance.log)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout.strip() == "0"
        assert appliance.end(signal.SIGTERM) == 0
    finally:
        if appliance.process is not None and appliance.process.poll() is None:
            appliance.process.kill()
            appliance.process.wait()
