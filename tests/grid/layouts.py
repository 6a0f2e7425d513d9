"""Files as the trade's sources lay them out, a few rows each."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from windfall.config.signals import SignalTable
from windfall.grid.trace import Trace, load_trace
from windfall.units import iso_utc


def write(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes, region: str = "R", **keys: object) -> Trace:
    return load_trace(SignalTable.model_validate({"path": str(write(folder, text)), **keys}), region)


def points(trace: Trace) -> dict[str, float]:
    """When rows begin, to the minute, and their values."""
    return {iso_utc(float(t))[:16]: round(float(v), 6) for t, v in zip(trace.times, trace.values, strict=True)}


def rows(*values: float, begin: str = "2024-01-01T00:00", minutes: int = 60, column: str = "g") -> str:
    """A file of `time_utc` and one more column."""
    t = datetime.fromisoformat(begin)
    return f"time_utc,{column}\n" + "".join(
        f"{t + timedelta(minutes=minutes * i):%Y-%m-%dT%H:%M}Z,{v}\n" for i, v in enumerate(values)
    )


WATTTIME = "point_time,value\n" + "".join(f"2024-06-01 00:{5 * i:02}:00+00:00,{900 + i}.0\n" for i in range(6))


def oasis() -> str:
    head = "INTERVALSTARTTIME_GMT,INTERVALENDTIME_GMT,OPR_DT,OPR_HR,NODE,MARKET_RUN_ID,LMP_TYPE,XML_DATA_ITEM,MW,GROUP\n"
    body = ""
    for group, (kind, item, base) in enumerate(
        (("LMP", "LMP_PRC", 30.5), ("MCC", "LMP_CONG_PRC", 1.25), ("MCE", "LMP_ENE_PRC", 28.75), ("MCL", "LMP_LOSS_PRC", -0.5))
    ):
        for node, more in (("TH_NP15_GEN-APND", 0.0), ("TH_SP15_GEN-APND", 10.0)):
            for h in range(5):
                begin, end = (f"2024-06-01T{t:02}:00:00-00:00" for t in (7 + h, 8 + h))
                body += f"{begin},{end},2024-06-01,{h + 1},{node},DAM,{kind},{item},{base + more + h},{group}\n"
    return head + body


AEMO = "REGION,SETTLEMENTDATE,TOTALDEMAND,RRP,PERIODTYPE\n" + "".join(
    f"SA1,2024/01/01 00:{5 * (i + 1):02}:00,1200.5,{-40 + i},TRADE\n" for i in range(6)
)


def aemo_dispatch() -> str:
    text = "C,NEMP.WORLD,DVD_DISPATCHPRICE,AEMO,PUBLIC,2024/02/09,11:24:24,1,DVD_DISPATCHPRICE,1\n"
    text += "I,DISPATCH,PRICE,4,SETTLEMENTDATE,RUNNO,REGIONID,INTERVENTION,RRP\n"
    for i in range(4):
        for region, more in (("NSW1", 0), ("SA1", 100)):
            text += f'D,DISPATCH,PRICE,4,"2024/01/01 00:{5 * (i + 1):02}:00",1,{region},0,{40 + i + more}\n'
    text += "I,DISPATCH,CASE_SOLUTION,1,SETTLEMENTDATE,RUNNO\n"
    text += 'D,DISPATCH,CASE_SOLUTION,1,"2024/01/01 00:05:00",7\n'
    return text + "C,END OF REPORT,12\n"


def entsoe(day: str, hours: list[int]) -> str:
    text = '"MTU (CET/CEST)","Day-ahead Price [EUR/MWh]","Currency","BZN|DE-LU"\n'
    for i, h in enumerate(hours):
        begin = datetime.fromisoformat(day) + timedelta(hours=h)
        text += f'"{begin:%d.%m.%Y %H:%M} - {begin + timedelta(hours=1):%d.%m.%Y %H:%M}","{50 + i}.00","EUR",""\n'
    return text


SMARD = (
    "\ufeffDatum von;Datum bis;Deutschland/Luxemburg [€/MWh] Originalauflösungen;Netzlast [MWh] Originalauflösungen\n"
    + "".join(
        f"01.07.2024 0{h}:00;01.07.2024 0{h + 1}:00;{price};1{h}.234,5\n"
        for h, price in enumerate(("1.234,56", "-5,25", "0,07", "98"))
    )
)
SMARD_PRICE = "Deutschland/Luxemburg [€/MWh] Originalauflösungen"

ELECTRICITY_MAPS = (
    "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),Carbon intensity gCO₂eq/kWh (Life cycle)\n"
    + "".join(f"2024-01-01 0{h}:00:00,Germany,Germany,DE,{300.5 + h},{350 + h}\n" for h in range(5))
)


def ercot() -> str:
    text = "Delivery Date,Hour Ending,Repeated Hour Flag,Settlement Point,Settlement Point Price\n"
    for day, hours in (
        ("03/10/2024", [f"{h:02}:00" for h in range(1, 25) if h != 3]),
        ("11/03/2024", ["01:00", "02:00", "02:00Y", *(f"{h:02}:00" for h in range(3, 25))]),
    ):
        for i, h in enumerate(hours):
            text += f"{day},{h[:5]},{'Y' if h.endswith('Y') else 'N'},HB_NORTH,{20 + i}\n"
    return text


GRIDSTATUS = "Time,Interval Start,Interval End,Market,Location,LMP\n" + "".join(
    f"2024-11-03 {t}{o},2024-11-03 {t}{o},2024-11-03 {e}{o},DAY_AHEAD_HOURLY,TH_NP15_GEN-APND,{v}\n"
    for t, e, o, v in (
        ("00:00:00", "01:00:00", "-07:00", 10),
        ("01:00:00", "02:00:00", "-07:00", 11),
        ("01:00:00", "02:00:00", "-08:00", 12),
        ("02:00:00", "03:00:00", "-08:00", 13),
        ("03:00:00", "04:00:00", "-08:00", 14),
    )
)
NORD_POOL = "Elspot Prices in EUR/MWh\nUpdated: 26-10-2024\n\nDate;Hours;SE3;SE4\n" + "".join(
    f"27-10-2024;{h:02} - {h + 1:02};{20 + i},5;{40 + i},5\n" for i, h in enumerate([0, 1, 2, 2, *range(3, 24)])
)
