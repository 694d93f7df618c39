"""Certificates out of their time: neither side of gRPC or NBD talks to one."""

import asyncio
import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from slackwater.nbd.client import list_exports
from slackwater.nbd.connection import Access
from slackwater.nbd.export import Listing
from slackwater.nbd.handshake import TlsMode
from slackwater.nbd.server import Server
from slackwater.runtime import client, grpcserver
from slackwater.runtime.health import Health
from slackwater.runtime.limits import ServerLimits
from slackwater.runtime.metrics import Metrics
from slackwater.runtime.tls import CertificateStore, TlsFiles
from tests.support.certificates import EXPIRED, NOT_YET_VALID, Authority

pytestmark = pytest.mark.timeout(60)

HealthStub: Any = health_pb2_grpc.HealthStub
Times = tuple[datetime, datetime]


def over_grpc(server: TlsFiles, caller: TlsFiles) -> str:
    """What a call between holders of these certificates comes to."""

    async def run() -> str:
        health = Health()
        await health.start()
        served = grpcserver.make_server(Metrics("primary"), health, [], ServerLimits())
        address = grpcserver.bind(served, "127.0.0.1:0", CertificateStore(server))
        await served.start()
        try:
            async with client.open_channel(address, CertificateStore(caller)) as channel:
                await HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            return "OK"
        except grpc.aio.AioRpcError as error:
            return error.code().name
        finally:
            await served.stop(0)

    return asyncio.run(run())


def over_nbd(server: TlsFiles, caller: TlsFiles) -> str:
    """What a client's look at the exports comes to."""
    access = Access(lambda: [Listing("groups/g/volumes/v")], lambda _name, _peer: pytest.fail())
    nbd = Server(access, tls_context=CertificateStore(server).server_context())
    address = nbd.listen_tcp("127.0.0.1", 0, TlsMode.REQUIRED)
    try:
        list_exports(address, tls_context=CertificateStore(caller).client_context())
        return "OK"
    except (ssl.SSLError, ConnectionError):
        return "UNAVAILABLE"
    finally:
        nbd.stop()


TALKS = pytest.mark.parametrize("talk", [over_grpc, over_nbd])


@TALKS
@pytest.mark.parametrize("times", [EXPIRED, NOT_YET_VALID], ids=["expired", "not-yet-valid"])
@pytest.mark.parametrize("whose", ["server", "caller"])
def test_certificate_out_of_its_time_is_refused(
    tmp_path: Path, talk: Any, times: Times, whose: str
) -> None:
    authority = Authority(tmp_path)
    files = {name: authority.issue(name) for name in ("server", "caller")}
    files[whose] = authority.issue(whose, valid=times)
    assert talk(files["server"], files["caller"]) == "UNAVAILABLE"


@TALKS
def test_the_same_certificates_in_their_time_are_taken(tmp_path: Path, talk: Any) -> None:
    authority = Authority(tmp_path)
    assert talk(authority.issue("server"), authority.issue("caller")) == "OK"
