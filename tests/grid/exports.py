"""Exports as people have them, written by hand from the providers' documentation: a few rows each."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

#: Rows of a table, the first with the names.
Rows = list[list[str]]


def table(text: str, separator: str = ",") -> Rows:
    return [r for r in csv.reader(io.StringIO(text.strip()), delimiter=separator) if r]


def save(folder: Path, rows: Rows, form: str) -> Path:
    """The rows as a file of a form: csv, csv.gz, parquet (numbers as numbers), json (a list of objects)."""
    path = folder / f"export.{form}"
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    if form == "csv":
        path.write_text(out.getvalue(), encoding="utf-8")
    elif form == "csv.gz":
        path.write_bytes(gzip.compress(out.getvalue().encode(), mtime=0))
    elif form == "json":
        path.write_text(json.dumps([dict(zip(rows[0], map(plain, row), strict=True)) for row in rows[1:]]), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [[plain(c) for c in column] for column in zip(*rows[1:], strict=True)]
        pq.write_table(pa.table(dict(zip(rows[0], columns, strict=True))), path)
    return path


def plain(cell: str) -> float | str | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return cell


WATTTIME = table("point_time,value\n" + "".join(f"2024-06-01 00:{5 * i:02}:00+00:00,{900 + i}.0\n" for i in range(6)))
WATTTIME_V3 = {
    "data": [
        {"point_time": f"2024-06-01T00:{5 * i:02}:00+00:00", "value": 900.0 + i, "last_updated": "2024-06-02T00:00:00+00:00"}
        for i in range(6)
    ],
    "meta": {
        "data_point_period_seconds": 300, "region": "CAISO_NORTH", "warnings": [], "signal_type": "co2_moer",
        "model": {"date": "2023-03-01"}, "units": "lbs_co2_per_mwh", "generated_at_period_seconds": 300,
    },
}  # fmt: skip
ELECTRICITY_MAPS = table(
    "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),Carbon Intensity gCO₂eq/kWh (LCA),"
    "Low Carbon Percentage,Renewable Percentage,Data Source,Data Estimated,Data Estimation Method\n"
    + "".join(f"2024-01-01 0{h}:00:00,Germany,Germany,DE,{300.5 + h},{350.5 + h},60.1,55.2,entsoe.eu,false,\n" for h in range(5))
)
ELECTRICITY_MAPS_2025 = table(
    "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),Carbon intensity gCO₂eq/kWh (Life cycle),"
    "Carbon-free energy percentage (CFE%),Renewable energy percentage (RE%),Data source,Data estimated,Data estimation method\n"
    + "".join(f"2024-01-01 0{h}:00:00,Germany,Germany,DE,{300.5 + h},{350.5 + h},60.1,55.2,entsoe.eu,false,\n" for h in range(5))
)
ELECTRICITY_MAPS_HISTORY = {
    "zone": "DE",
    "history": [
        {
            "zone": "DE", "carbonIntensity": 350.5 + h, "datetime": f"2024-01-01T0{h}:00:00.000Z",
            "updatedAt": "2024-01-03T10:00:00.000Z", "createdAt": "2023-12-29T10:00:00.000Z", "emissionFactorType": "lifecycle",
            "isEstimated": False, "estimationMethod": None,
        }
        for h in range(5)
    ],
}  # fmt: skip


def entsoe(day: str = "01/02/2024") -> Rows:
    """The platform's export since 2024: both resolutions of an area as sequences, the intraday price beside it."""
    text = (
        '"MTU (CET/CEST)","Area","Sequence","Day-ahead Price (EUR/MWh)","Intraday Period (CET/CEST)","Intraday Price (EUR/MWh)"\n'
    )
    for h in range(5):
        mtu = f"{day} {h:02}:00:00 - {day} {h + 1:02}:00:00"
        text += f'"{mtu}","BZN|DE-LU","Sequence 1","{50.5 + h}","",""\n'
        text += f'"{mtu}","BZN|DE-LU","Sequence 2","{60.5 + h}","",""\n'
    return table(text)


#: A month of the file library: all areas in one file, tabs between columns.
ENTSOE_LIBRARY = table(
    "InstanceCode\tDateTime(UTC)\tResolutionCode\tAreaCode\tAreaDisplayName\tAreaTypeCode\tMapCode\tContractType\tSequence\t"
    "Price[Currency/MWh]\tCurrency\tUpdateTime(UTC)\n"
    + "".join(
        f"x\t2024-01-01 0{h}:00:00.000\tPT60M\t10Y{code}\t{area}\tBZN\t{code}\tDay-ahead\t\t{price + h}\t{currency}\t"
        "2023-12-31 12:00:00\n"
        for h in range(5)
        for area, code, price, currency in (("DE-LU BZN", "DE_LU", 50.5, "EUR"), ("GB BZN", "GB", 70.5, "GBP"))
    ),
    "\t",
)


def oasis(market: str = "DAM", value: str = "MW", minutes: int = 60) -> Rows:
    head = (
        "INTERVALSTARTTIME_GMT,INTERVALENDTIME_GMT,OPR_DT,OPR_HR,OPR_INTERVAL,NODE_ID_XML,NODE_ID,NODE,MARKET_RUN_ID,LMP_TYPE,"
        f"XML_DATA_ITEM,PNODE_RESMRID,GRP_TYPE,POS,{value},GROUP\n"
    )
    for group, (kind, item, base) in enumerate(
        (("LMP", "LMP_PRC", 30.5), ("MCC", "LMP_CONG_PRC", 1.25), ("MCE", "LMP_ENE_PRC", 28.75), ("MCL", "LMP_LOSS_PRC", -0.5))
    ):
        for node, more in (("TH_NP15_GEN-APND", 0.0), ("TH_SP15_GEN-APND", 10.0)):
            for i in range(5):
                begin, end = (f"2024-06-01T{7 + m // 60:02}:{m % 60:02}:00-00:00" for m in (i * minutes, (i + 1) * minutes))
                head += (
                    f"{begin},{end},2024-06-01,{1 + i * minutes // 60},{i},{node},{node},{node},{market},{kind},{item},{node},ALL,"
                    f"1,{base + more + i},{group}\n"
                )
    return table(head)


AEMO = table(
    "REGION,SETTLEMENTDATE,TOTALDEMAND,RRP,PERIODTYPE\n"
    + "".join(f"SA1,2024/01/01 00:{5 * (i + 1):02}:00,1200.5,{-40.5 + i},TRADE\n" for i in range(6))
)
#: nemosis.dynamic_data_compiler(…, "DISPATCHPRICE"): market time without an offset, ends of intervals, and where AEMO
#: intervened a row for each of two runs.
NEMOSIS = table(
    "SETTLEMENTDATE,REGIONID,INTERVENTION,RRP\n"
    + "".join(
        f"2024-01-01 00:{5 * (i + 1):02}:00,{region},{run},{price + i + 500 * run}\n"
        for i in range(6)
        for region, price in (("NSW1", 60.5), ("SA1", -40.5))
        for run in ((0, 1) if i == 3 else (0,))
    )
)
#: gridstatus.CAISO().get_lmp(…): the hour that comes twice, told apart by its offset.
GRIDSTATUS = table(
    "Time,Interval Start,Interval End,Market,Location,Location Type,LMP,Energy,Congestion,Loss\n"
    + "".join(
        f"2024-11-03 {t},2024-11-03 {t},2024-11-03 {e},DAY_AHEAD_HOURLY,{node},Trading Hub,{v + more},30.5,-1.5,-0.5\n"
        for t, e, v in (
            ("00:00:00-07:00", "01:00:00-07:00", 10.5),
            ("01:00:00-07:00", "01:00:00-08:00", 11.5),
            ("01:00:00-08:00", "02:00:00-08:00", 12.5),
            ("02:00:00-08:00", "03:00:00-08:00", 13.5),
            ("03:00:00-08:00", "04:00:00-08:00", 14.5),
        )
        for node, more in (("TH_NP15_GEN-APND", 0), ("TH_SP15_GEN-APND", 100))
    )
)
