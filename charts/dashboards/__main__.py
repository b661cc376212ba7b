"""`python -m dashboards`: writes the dashboards that the chart ships."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import cost, deployment, fleet, models
from dashboards.panels import Board

BOARDS = (fleet.BOARD, deployment.BOARD, models.BOARD, cost.BOARD)
PLACE = Path(__file__).parents[1] / "headrace" / "files" / "dashboards"


def written(board: Board) -> str:
    return json.dumps(board.build().build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main() -> None:
    PLACE.mkdir(parents=True, exist_ok=True)
    for board in BOARDS:
        (PLACE / f"{board.file}.json").write_text(written(board))


if __name__ == "__main__":
    main()
