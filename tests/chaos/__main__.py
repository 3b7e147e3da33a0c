"""Streams under faults, on a real Ray of its own: `make chaos`.

    make chaos                                         # 20 kills of replicas and 5 of gateways under 16 streams
    make chaos ARGS="--cuts 3 --stalls 3 --deploys 1 --seed 2"

Every stream is compared with the same request's undisturbed run. Exit status 0 = every fault struck, under traffic, and
no stream failed or said anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter

from tests.chaos.cluster import Fleet, running
from tests.chaos.fault import Cut, Deploy, Fault, Kill, NodeLoss, Stall
from tests.chaos.load import Load, undisturbed_answers
from tests.chaos.report import Report
from tests.chaos.schedule import Schedule, Strike
from tests.chaos.wire import Wire


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replica-kills", type=int, default=20)
    parser.add_argument("--gateway-kills", type=int, default=5)
    parser.add_argument("--controller-kills", type=int, default=0)
    parser.add_argument("--stalls", type=int, default=0)
    parser.add_argument("--cuts", type=int, default=0)
    parser.add_argument("--deploys", type=int, default=0)
    parser.add_argument("--node-losses", type=int, default=0, help="runs on two nodes, one replica on each")
    parser.add_argument("--streams", type=int, default=16, help="open at once")
    parser.add_argument("--floor", type=int, default=4, help="streams to meet, and to finish, per fault")
    parser.add_argument("--quantization", default="auto", help="of the model, as `engine.quantization`")
    parser.add_argument("--seed", type=int, default=1, help="of the order of faults, the gaps and the requests")
    options = parser.parse_args()
    began = time.monotonic()
    with running(options.quantization, on_nodes=options.node_losses > 0, thinking=True) as chaos:
        report = asyncio.run(run(chaos, options))
    print(report.markdown())
    print(f"\nseed {options.seed}, {options.streams} streams, {time.monotonic() - began:.0f} s in all")
    return 1 if report.problems else 0


async def run(chaos: Fleet, options: argparse.Namespace) -> Report:
    """Let faults strike under load."""
    await chaos.whole()
    target = chaos.cluster.target
    async with Wire(target) as wire:
        load = Load(wire.target, await undisturbed_answers(target), options.seed)
        faults = _faults(options, chaos, wire, load)
        strikes: list[Strike] = []

        def told(strike: Strike) -> None:
            strikes.append(strike)
            evidence = strike.evidence or "did not strike"
            print(
                f"{len(strikes)}/{len(faults)} {strike.fault}: {evidence}, {strike.open_streams} streams open,"
                f" whole after {strike.recovery_s:.1f} s; {load.tally.finished} streams finished so far",
                file=sys.stderr,
                flush=True,
            )

        async with asyncio.TaskGroup() as group:
            group.create_task(load.run(options.streams))
            try:
                await Schedule(faults, options.seed).run(load, options.streams // 2, chaos.whole, told)
            finally:
                load.stop()
    return Report(Counter(fault.name for fault in faults), strikes, load.tally, options.floor)


def _faults(options: argparse.Namespace, chaos: Fleet, wire: Wire, load: Load) -> list[Fault]:
    choose = random.Random(options.seed)  # noqa: S311 - no secret
    return [
        *(Kill("kill of a replica", lambda: chaos.replicas, choose) for _ in range(options.replica_kills)),
        *(Kill("kill of the gateway", lambda: chaos.gateways, choose) for _ in range(options.gateway_kills)),
        *(Kill("kill of the controller", lambda: chaos.controllers, choose) for _ in range(options.controller_kills)),
        *(Stall(chaos, choose) for _ in range(options.stalls)),
        *(Cut(wire) for _ in range(options.cuts)),
        *(Deploy(chaos) for _ in range(options.deploys)),
        *(
            NodeLoss(chaos.nodes, lambda: load.tally.finished, options.streams)
            for _ in range(options.node_losses)
            if chaos.nodes is not None
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
