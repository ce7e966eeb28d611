"""The arrival delay of flights, predicted when they leave: learned once, or with every flight that lands."""

import sys
import tempfile

from sklearn.linear_model import SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import millstream as ms
from millstream.cli.flights.data import SCHEMA, departures

FEATURES = ["dep_delay", "distance", "hour", "is_ua", "is_b6", "is_ev", "is_dl", "is_aa"]


def model(name: str) -> ms.Model:
    """Declare a model; two of them differ in nothing but their names."""
    estimator = make_pipeline(
        StandardScaler(),
        SGDRegressor(loss="huber", epsilon=10, learning_rate="constant", eta0=0.002),
    )
    return ms.Model(name, estimator, features=FEATURES, target="arr_delay")


def flights(app: ms.App, topic: str):
    """Return the flights of a topic that landed, with what was known when they left."""
    carrier = ms.col("carrier")
    return (
        app.read(topic)
        .filter(ms.col("arr_delay").is_not_null())
        .with_columns(
            hour=ms.col("scheduled").dt.hour(),
            is_ua=carrier == "UA",
            is_b6=carrier == "B6",
            is_ev=carrier == "EV",
            is_dl=carrier == "DL",
            is_aa=carrier == "AA",
        )
    )


def error(app: ms.App, topic: str) -> float:
    """Return the mean absolute error of the predictions in a topic, in minutes."""
    wrong = abs(ms.col("arr_delay") - ms.col("predicted"))
    return app.read(topic).agg(error=ms.mean(wrong)).collect()["error"][0].as_py()


def main(limit: int | None = None) -> None:
    """Learn from the first half of the flights, and predict the second."""
    table = departures(limit).table
    half = table.num_rows // 2
    with (
        tempfile.TemporaryDirectory() as folder,
        ms.App("delays", store=f"{folder}/delays.mill") as app,
    ):
        app.topic("past", schema=SCHEMA).append(table.slice(0, half))
        app.topic("coming", schema=SCHEMA).append(table.slice(half))
        batch, online = model("batch"), model("online")

        # Both learn the past as a batch.
        for each in (batch, online):
            flights(app, "past").fit(each).run()
        usual = flights(app, "past").agg(usual=ms.median("arr_delay")).collect()["usual"][0].as_py()

        # One stays as it is. The other learns each flight once it has predicted it: the same code, as a stream.
        flights(app, "coming").with_columns(predicted=usual).write("by_constant").run()
        flights(app, "coming").predict(batch).write("by_batch").stream(until="end")
        report = (
            flights(app, "coming")
            .fit(online, into="predicted")
            .write("by_online")
            .stream(until="end")
        )

        for name in ("constant", "batch", "online"):
            print(f"{name:<10} MAE {error(app, f'by_{name}'):5.2f} minutes")
        print(f"online model: {report.models['online']}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
