"""How long one waits for one of several servers: M/G/k, with arrivals and services that vary as they were seen to.

Erlang's C gives the share that waits if both vary as chance does; A. O. Allen and J. G. Cunneen's approximation scales
the mean wait to what they really vary (A. O. Allen, "Probability, Statistics, and Queueing Theory", 2nd ed., 1990,
5.3). Those who wait are taken to wait for exponential times.
"""

import math


def waiting_share(servers: int, offered: float) -> float:
    """Erlang's C: the share of arrivals that finds all servers busy. `offered`: of work, in servers (Erlang)."""
    if offered >= servers:
        return 1.0
    blocked = 1.0  # Erlang's B, by its recursion, which neither overflows nor cancels
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1.0 - (offered / servers) * (1.0 - blocked))


def wait(servers: int, rate: float, service: float, variability: float, share: float) -> float:
    """Seconds within which so large a share of all begins to be served; infinite where the queue only grows.

    `rate`: arrivals a second; `service`: seconds, the mean. `variability`: the mean of the squared coefficients of
    variation of the times between arrivals and of the services; 1 is chance.
    """
    offered = rate * service
    if offered >= servers:
        return math.inf
    waiting = waiting_share(servers, offered)
    if waiting <= 1.0 - share:
        return 0.0
    mean_of_those = service / (servers - offered) * variability
    return mean_of_those * math.log(waiting / (1.0 - share))
