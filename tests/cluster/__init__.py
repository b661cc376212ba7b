"""A real Kubernetes on one machine, without containers: for the tests, the demo, and for trying things by hand.

etcd, kube-apiserver, kube-controller-manager and kube-scheduler are the real programs; a node agent runs pods as local
processes on loopback addresses. Linux only: it leans on 127.0.0.0/8, prctl and /proc.
"""

from cluster.client import Client, attach
from cluster.commands import CommandFailed
from cluster.local import LocalCluster
from cluster.nodes import NodeShape
from cluster.processes import ProgramEnded
from cluster.waiting import DeadlineMissed

__all__ = ["Client", "CommandFailed", "DeadlineMissed", "LocalCluster", "NodeShape", "ProgramEnded", "attach"]
