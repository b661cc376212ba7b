"""The vocabulary: the same member goes to the event, the condition, the metric label and the test. Never rename one."""

from enum import StrEnum


class Reason(StrEnum):
    """Why the number of replicas is what it is."""

    STEADY = "Steady"
    LOAD_ROSE = "LoadRose"  # demand against learned capacity asks for more
    QUEUE_WAIT_HIGH = "QueueWaitHigh"  # the promise is broken although the capacity model saw no need
    LOAD_FORECAST = "LoadForecast"  # by the time that a replica takes to start, more will come
    LOAD_FELL = "LoadFell"
    SCALE_FROM_ZERO = "ScaleFromZero"  # routers hold requests, and no replica is ready
    IDLE_TO_ZERO = "IdleToZero"  # no request for idleTimeout: the last replica goes
    AT_ZERO = "AtZero"  # nobody asks, and no replica is there
    HOLDING_FOR_WINDOW = "HoldingForWindow"  # fewer would do now, more were needed within the scale-down window
    HOLDING_TARGET = "HoldingTarget"  # fewer would break the target with the load of this moment
    BELOW_MINIMUM = "BelowMinimum"
    AT_MAXIMUM = "AtMaximum"
    ABOVE_MAXIMUM = "AboveMaximum"
    METRICS_MISSING = "MetricsMissing"  # unknown is not zero: never scale down on it
    INSUFFICIENT_GPU = "InsufficientGPU"  # the scheduler has no room; ordering more would not help
    MODEL_REFUSED = "ModelRefused"  # no replica can load the model; more replicas would fail alike
    OVER_BUDGET = "OverBudget"  # the namespace's GPU budget has no more
    METRICS_FALLBACK = "MetricsFallback"  # no pod has answered for longer than metricsHold
    EXTERNAL = "External"  # spec.replicas decides
    PAUSED = "Paused"
    NONE_READY = "NoneReady"  # nothing to measure yet


class Signal(StrEnum):
    """Who proposed a number of replicas."""

    WORK = "work"  # arriving work, and the backlog
    SLOTS = "slots"  # requests in flight, until a replica's capacity is known
    QUEUE_WAIT = "queueWait"  # the promise
    BURSTS = "bursts"  # what those of the last half hour needed, each shorter than a start
    HELD = "held"  # requests at the routers
    IDLE = "idle"  # none anywhere, for long
    FORECAST = "forecast"  # the trend of the last minutes, one start ahead
    FALLBACK = "fallback"  # the manifest's number for times without metrics
    EXTERNAL = "external"  # the scale subresource


class Announcement(StrEnum):
    """Reasons of events that are not decisions."""

    POD_CREATED = "PodCreated"
    POD_UNROUTED = "PodUnrouted"
    POD_PROMOTED = "PodPromoted"  # a warm standby serves from now on
    POD_DEMOTED = "PodDemoted"  # what was not ready is a standby from now on
    POD_DELETED = "PodDeleted"
    POD_REFUSED = "PodRefused"  # by a ResourceQuota
    ROUTING_REFUSED = "RoutingRefused"  # the API server did not make, or remove, what spec.routing is about
    ROLLOUT_STARTED = "RolloutStarted"
    ROLLOUT_STALLED = "RolloutStalled"  # rollout.progressDeadline has passed
    CANARY_STARTED = "CanaryStarted"
    CANARY_PROMOTED = "CanaryPromoted"
    CANARY_ROLLED_BACK = "CanaryRolledBack"
    SHADOW_STARTED = "ShadowStarted"
    SHADOW_PROMOTED = "ShadowPromoted"
    SHADOW_ROLLED_BACK = "ShadowRolledBack"
    INVALID_SPEC = "InvalidSpec"
    RECONCILE_FAILED = "ReconcileFailed"
    SCALING_CONFLICT = "ScalingConflict"  # somebody else scales this, or edits what the operator made


class Progress(StrEnum):
    """Why a rollout stands where it stands; also the reason of the condition Progressing."""

    ROLLOUT_COMPLETE = "RolloutComplete"
    ROLLING_UPDATE = "RollingUpdate"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"  # no pod more became ready for too long
    SURGE_IMPOSSIBLE = "SurgeImpossible"  # a full cluster: an old pod leaves before its replacement starts
    CANARY_TRIAL = "CanaryTrial"
    CANARY_PROMOTED = "CanaryPromoted"
    CANARY_ROLLED_BACK = "CanaryRolledBack"
    SHADOW_TRIAL = "ShadowTrial"
    SHADOW_ROLLED_BACK = "ShadowRolledBack"
    WAITING_FOR_GPU = "WaitingForGPU"  # shadow pods find no room, and take no replica's place
    REVISION_LOST = "RevisionLost"  # the record that pods must be made from was deleted


class Verdict(StrEnum):
    """What the evidence of a trial says."""

    EVIDENCE_MISSING = "EvidenceMissing"  # not enough yet
    ALL_GATES_PASSED = "AllGatesPassed"
    CANARY_FAILED = "CanaryFailed"  # its pods crash, or refuse the model, or compute on another device
    SHADOW_FAILED = "ShadowFailed"  # likewise
    QUALITY_WORSE = "QualityWorse"
    QUEUE_WAIT_WORSE = "QueueWaitWorse"
    ERROR_RATE_WORSE = "ErrorRateWorse"
    TOKENS_PER_SECOND_WORSE = "TokensPerSecondWorse"
    DEADLINE_PASSED = "DeadlinePassed"  # and the evidence is still missing
    NOT_TRIED = "NotTried"  # strategy Rolling, or no old replica serves that one could compare with


class Health(StrEnum):
    """Reasons of conditions beside the decision's own."""

    ENOUGH_READY = "EnoughReady"
    TOO_FEW_READY = "TooFewReady"
    ROUTERS_READY = "RoutersReady"
    NO_ROUTER_READY = "NoRouterReady"
    POOL_APPLIED = "PoolApplied"  # an InferencePool; who accepts it says its own status
    ROUTING_REFUSED = "RoutingRefused"  # what spec.routing asks for cannot be made
    SCALED_TO_ZERO = "ScaledToZero"  # none is wanted; the routers hold the next request
    STARTING = "Starting"
    WAITING_FOR_GPU = "WaitingForGPU"
    PULLING = "Pulling"
    LOADING = "Loading"
    WARMING_UP = "WarmingUp"
    NOT_READY = "NotReady"  # it has served, and its readiness probe fails now
    DEVICE_MISMATCH = "DeviceMismatch"
    CRASH_LOOPING = "CrashLooping"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    MODEL_LOADED = "ModelLoaded"
    MODEL_NOT_TRIED = "ModelNotTried"
    ALL_ANSWER = "AllAnswer"
    WITHIN_BOUNDS = "WithinBounds"
    SCHEDULED = "Scheduled"
    QUOTA_EXCEEDED = "QuotaExceeded"  # a ResourceQuota refuses another pod
    LOSS_ANNOUNCED = "LossAnnounced"  # a pod is replaced because it will soon be gone
    ALL_WELL = "AllWell"
    READY_FOR_NEW_SCALE = "ReadyForNewScale"
    SCALE_DOWN_STABILIZED = "ScaleDownStabilized"
    VALID_METRIC_FOUND = "ValidMetricFound"
    SHADOW = "Shadow"
    UNDISPUTED = "Undisputed"  # nobody else scales this
    FOREIGN_AUTOSCALER = "ForeignAutoscaler"
    FOREIGN_REPLICAS = "ForeignReplicas"  # somebody writes spec.replicas
    FOREIGN_EDIT = "ForeignEdit"  # somebody changed a pod that the operator made
    AUTOSCALERS_UNKNOWN = "AutoscalersUnknown"  # they could not be listed
