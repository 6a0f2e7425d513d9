"""Local servers that answer as the providers document: real sockets, checked credentials and parameters, scripted faults.

Shapes of answers and errors: WattTime's API description and official client 1.4.0, the Electricity Maps API reference,
OpenElectricity's API reference and server source (error bodies `{"detail": ...}`), Vessim 0.16's `_broker.py`.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from listening import Listening
from patience import PATIENCE_S
from windfall.units import iso_utc, parse_utc

LB = 0.45359237


@dataclass
class Fault:
    """What one request gets instead of its answer. ``hang``: nothing until the server closes; ``drop``: a closed connection."""

    status: int = 500
    body: str | bytes = '{"message": "broken"}'
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    kind: str = "application/json"


@dataclass(frozen=True)
class Asked:
    """One request that arrived."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


Answer = tuple[int, Any]


class Served(Listening):
    """A server on 127.0.0.1. ``faults`` are used up first; then ``answer`` says what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.faults: deque[Fault] = deque()
        self._released = threading.Event()

    def __exit__(self, *args: object) -> None:
        self._released.set()
        super().__exit__(*args)

    def encrypt(self, folder: Path) -> None:
        """From now on it speaks TLS, with a certificate that nobody has signed but itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        begin = datetime(2020, 1, 1, tzinfo=UTC)
        certificate = (
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
            .not_valid_before(begin).not_valid_after(begin + timedelta(days=36500))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        file = folder / "own.pem"
        file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def handle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        parts = urlsplit(handler.path)
        query = {k: v[-1] for k, v in parse_qs(parts.query).items()}
        asked = Asked(parts.path, query, {k.lower(): v for k, v in handler.headers.items()})
        self.asked.append(asked)
        if self.faults:
            fault = self.faults.popleft()
            if fault.hang:
                self._released.wait(PATIENCE_S)
            if fault.hang or fault.drop:
                return
            self._send(handler, fault.status, fault.body, fault.headers, fault.kind)
            return
        status, said = self.answer(asked)
        self._send(handler, status, json.dumps(said), {}, "application/json")

    def answer(self, asked: Asked) -> Answer:
        raise NotImplementedError

    def paths(self) -> list[str]:
        return [a.path for a in self.asked]

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, body: str | bytes, headers: dict[str, str], kind: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


class WattTimeServer(Served):
    """`/login`, `/v3/forecast`, `/v3/historical`, `/v3/region-from-loc` of WattTime. Values in lb/MWh."""

    def __init__(self, now: Callable[[], float], *, user: str = "wind", password: str = "p4ss-w0rd") -> None:
        super().__init__()
        self.now = now
        self.account = f"{user}:{password}"
        self.regions = {"CAISO_NORTH"}
        self.units = "lbs_co2_per_mwh"
        self.model = "2026-03-01"
        self.logins = 0
        self.tokens: set[str] = set()
        #: Value by the time of its point; the default where there is none.
        self.values: dict[float, Any] = {}
        self.default: Any = 387.2
        #: Seconds from point to point; told in `meta` where it is not 300.
        self.period_s = 300
        #: As `meta.warnings`.
        self.warnings: list[Any] = []

    def expire(self) -> None:
        """All tokens end now."""
        self.tokens.clear()

    def answer(self, asked: Asked) -> Answer:
        auth = asked.headers.get("authorization", "")
        if asked.path == "/login":
            if auth != "Basic " + base64.b64encode(self.account.encode()).decode():
                return 401, {"error": "unauthorized", "message": "Invalid username or password"}
            self.logins += 1
            token = f"jwt-{self.logins}-s3cret"
            self.tokens.add(token)
            return 200, {"token": token}
        if auth.removeprefix("Bearer ") not in self.tokens:
            return 401, {"error": "unauthorized", "message": f"Invalid or expired token {auth}. Please re-authenticate."}
        if asked.query.get("signal_type") != "co2_moer":
            return 400, {"error": "invalid", "message": "signal_type is required"}
        if asked.path == "/v3/region-from-loc":
            if not {"latitude", "longitude"} <= asked.query.keys():
                return 400, {"error": "invalid", "message": "latitude and longitude are required"}
            return 200, {"region": "CAISO_NORTH", "region_full_name": "California ISO Northern", "signal_type": "co2_moer"}
        region = asked.query.get("region", "")
        if region not in self.regions:
            return 403, {"error": "forbidden", "message": f"Your subscription does not include {region}"}
        if asked.path == "/v3/forecast":
            hours = asked.query.get("horizon_hours", "24")
            if not hours.isdecimal() or not 0 <= int(hours) <= 72:
                return 400, {"error": "invalid", "message": "horizon_hours must be between 0 and 72"}
            first = self.now() // self.period_s * self.period_s
            return 200, self._data(region, first, int(hours) * 12 + 1, generated_at=iso_utc(first))
        if asked.path == "/v3/historical":
            start, end = parse_utc(asked.query["start"]), parse_utc(asked.query["end"])
            if end - start > 32 * 86400:
                return 400, {"error": "invalid", "message": "the window may be at most 32 days"}
            return 200, self._data(region, -(-start // 300) * 300, int((end - start) // 300))
        return 404, {"error": "not found"}

    def _data(self, region: str, first: float, count: int, **extra: Any) -> dict[str, Any]:
        meta = {"region": region, "signal_type": "co2_moer", "model": {"date": self.model}, "units": self.units, **extra}
        if self.period_s != 300:
            meta["data_point_period_seconds"] = self.period_s
        if self.warnings:
            meta["warnings"] = self.warnings
        times = [first + float(self.period_s) * i for i in range(count)]
        data = [{"point_time": iso_utc(t).replace("Z", "+00:00"), "value": self.values.get(t, self.default)} for t in times]
        return {"data": data, "meta": meta}


class ElectricityMapsServer(Served):
    """`/v3/carbon-intensity/latest`, `history`, `forecast` of Electricity Maps."""

    def __init__(self, now: Callable[[], float], *, key: str = "em-s3cret") -> None:
        super().__init__()
        self.now, self.key = now, key
        self.zones = {"DE"}
        self.forecasts = True
        self.value: Any = 302
        self.estimated: str | None = None

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("auth-token") != self.key:
            return 401, {"message": "Invalid auth-token", "status": "error"}
        zone = asked.query.get("zone")
        if zone is None and {"lat", "lon"} <= asked.query.keys():
            zone = "DE"
        if asked.query.get("disableCallerLookup") != "true" and zone not in self.zones:
            zone = "FR"  # where the caller's own address is
        if zone not in self.zones:
            return 404, {"message": f"No data for zone {zone}", "status": "error"}
        hour = self.now() // 3600 * 3600
        match asked.path.rpartition("/")[2]:
            case "latest":
                return 200, {"zone": zone, **self._row(hour), "temporalGranularity": "hourly"}
            case "history":
                rows = [{"zone": zone, **self._row(hour - 3600 * h)} for h in range(23, -1, -1)]
                return 200, {"zone": zone, "history": rows, "temporalGranularity": "hourly"}
            case "forecast":
                if not self.forecasts:
                    return 403, {"message": "Access denied", "status": "error"}
                hours = int(asked.query.get("horizonHours", "24"))
                if hours not in (6, 24, 48, 72):
                    return 400, {"message": "invalid horizonHours", "status": "error"}
                ahead = [{"datetime": self._text(hour + 3600 * h), "carbonIntensity": 200 + h} for h in range(hours + 1)]
                return 200, {"zone": zone, "forecast": ahead, "updatedAt": self._text(self.now()), "temporalGranularity": "hourly"}
        return 404, {"message": "not found"}

    def _row(self, t: float) -> dict[str, Any]:
        return {
            "carbonIntensity": self.value, "datetime": self._text(t), "updatedAt": self._text(t + 600), "createdAt": self._text(t),
            "emissionFactorType": "lifecycle", "isEstimated": self.estimated is not None, "estimationMethod": self.estimated,
        }  # fmt: skip

    @staticmethod
    def _text(t: float) -> str:
        return iso_utc(t).replace("Z", ".000Z")


class OpenElectricityServer(Served):
    """`/v4/market/network/{network}` of OpenElectricity. Instants are network time and mark the ends of intervals."""

    def __init__(self, now: Callable[[], float], *, key: str = "oe_s3cret") -> None:
        super().__init__()
        self.now, self.key = now, key
        self.values: dict[float, Any] = {}
        self.default: Any = -12.5
        self.units = {"price": "$/MWh", "curtailment": "MW"}
        #: How far behind the newest interval is.
        self.late_s = 300.0
        self.naive = False

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization") != f"Bearer {self.key}":
            return 401, {"error": {"code": "unauthorized", "message": "Missing or invalid API key", "details": []}}
        network = asked.path.rpartition("/")[2]
        offset = {"NEM": 10, "WEM": 8}.get(network)
        if offset is None or not asked.path.startswith("/market/network/"):
            return 404, {"detail": "Network not found"}
        metric = asked.query.get("metrics", "")
        if metric not in self.units or asked.query.get("interval") != "5m":
            return 422, {"detail": [{"loc": ["query", "metrics"], "msg": "Input should be 'price'", "type": "enum"}]}
        edges = []
        for key in ("date_start", "date_end"):
            text = asked.query.get(key)
            if text is None:
                edges.append(self.now())
                continue
            if "+" in text or text.endswith("Z"):
                return 400, {"detail": "Date start must be timezone naive and in network time"}
            edges.append(parse_utc(text) - offset * 3600)
        if edges[1] - edges[0] > 8 * 86400:
            return 400, {"detail": "Date range too large for 5m interval. Maximum range is 8 days."}
        newest = min(edges[1], self.now() - self.late_s) // 300 * 300
        count = int((newest - edges[0]) // 300) + 1
        rows = [[self._text(newest - 300 * i, offset), self.values.get(newest - 300 * i, self.default)] for i in range(count)][::-1]
        rows = [r for r in rows if r[1] is not ...]
        if not rows:
            return 416, {"detail": f"No market data available for network {network} in the specified time range"}
        region = asked.query.get("network_region", "NSW1")
        result = {
            "name": f"{metric}_{region}",
            "date_start": rows[0][0],
            "date_end": rows[-1][0],
            "columns": {"region": region},
            "data": rows,
        }
        series = {
            "network_code": network, "metric": metric, "unit": self.units[metric], "interval": "5m", "date_start": rows[0][0],
            "date_end": rows[-1][0], "groupings": [], "results": [result], "network_timezone_offset": f"+{offset:02d}:00",
        }  # fmt: skip
        return 200, {"version": "4.0", "created_at": iso_utc(self.now()), "success": True, "data": [series], "total_records": count}

    def _text(self, t: float, offset: int) -> str:
        text = iso_utc(t + offset * 3600).removesuffix("Z")
        return text if self.naive else f"{text}+{offset:02d}:00"


class JsonServer(Served):
    """Any JSON at any path; ``header`` (name, value) is checked if given."""

    def __init__(self, body: Any, header: tuple[str, str] | None = None) -> None:
        super().__init__()
        self.body, self.header = body, header

    def answer(self, asked: Asked) -> Answer:
        if self.header and asked.headers.get(self.header[0].lower()) != self.header[1]:
            return 403, {"error": "forbidden"}
        return 200, self.body


class VessimServer(Served):
    """`/microgrids` and `/microgrids/{name}` of Vessim's broker; ``step`` pushes as its REST interface does."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[dict[str, Any]]] = {"empty": []}

    def step(self, name: str, time: str | None, p_delta: Any, **extra: Any) -> None:
        state = {
            "microgrid": name, "time": time, "p_delta": p_delta, "p_grid": 0.0,
            "actor_states": {"solar": {"power": 5000.0}, "server.1": {"power": -800.0}},
            "policy_state": {}, "dispatch_states": {"grid": {"current_power": 0.0}}, "grid_signals": None, **extra,
        }  # fmt: skip
        self.history.setdefault(name, []).append({k: v for k, v in state.items() if v is not None})

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/microgrids":
            return 200, list(self.history)
        name = asked.path.rpartition("/")[2]
        if name not in self.history:
            return 404, {"detail": "Microgrid not found"}
        if not self.history[name]:
            return 404, {"detail": "No data available"}
        return 200, self.history[name][-1]
