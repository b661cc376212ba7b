"""The vocabulary: the same member goes to the event, the condition, the metric label and the test. Never rename one."""

from enum import StrEnum


class Reason(StrEnum):
    """Why the number of replicas is what it is."""

    STEADY = "Steady"
    LOAD_ROSE = "LoadRose"  # demand against learned capacity asks for more
    QUEUE_WAIT_HIGH = "QueueWaitHigh"  # the promise is broken although the capacity model saw no need
    LOAD_FELL = "LoadFell"
    HOLDING_FOR_WINDOW = "HoldingForWindow"  # fewer would do now, more were needed within the scale-down window
    HOLDING_TARGET = "HoldingTarget"  # fewer would break the target with the load of this moment
    BELOW_MINIMUM = "BelowMinimum"
    AT_MAXIMUM = "AtMaximum"
    ABOVE_MAXIMUM = "AboveMaximum"
    METRICS_MISSING = "MetricsMissing"  # unknown is not zero: never scale down on it
    INSUFFICIENT_GPU = "InsufficientGPU"  # the scheduler has no room; ordering more would not help
    MODEL_REFUSED = "ModelRefused"  # no replica can load the model; more replicas would fail alike
    PAUSED = "Paused"
    NONE_READY = "NoneReady"  # nothing to measure yet


class Announcement(StrEnum):
    """Reasons of events that are not decisions."""

    POD_CREATED = "PodCreated"
    POD_UNROUTED = "PodUnrouted"
    POD_DELETED = "PodDeleted"
    ROLLOUT_STARTED = "RolloutStarted"
    INVALID_SPEC = "InvalidSpec"
    RECONCILE_FAILED = "ReconcileFailed"


class Health(StrEnum):
    """Reasons of conditions beside the decision's own."""

    ENOUGH_READY = "EnoughReady"
    TOO_FEW_READY = "TooFewReady"
    STARTING = "Starting"
    CRASH_LOOPING = "CrashLooping"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    MODEL_LOADED = "ModelLoaded"
    MODEL_NOT_TRIED = "ModelNotTried"
    ALL_ANSWER = "AllAnswer"
    WITHIN_BOUNDS = "WithinBounds"
    SCHEDULED = "Scheduled"
