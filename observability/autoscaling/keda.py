"""KEDA's external scaler: `type: external`, and `external-push`, which is told at once that a request waits for a pool at zero.

    triggers: [{type: external-push, metadata: {scalerAddress: penstock.penstock-system:9095, pool: vllm,
                                                signal: token-backlog-seconds, target: "0.5"}}]

metadata: `pool` (of the ScaledObject's namespace), `signal` (default desired-replicas), `target`, `labels` (a=b,c=d: of the pods
that count). What is stale is UNAVAILABLE and never zero: KEDA keeps the size, or takes the fallback that the user has chosen.
Source: keda.sh "External Scalers"; messages in keda_messages.py.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from observability.autoscaling import keda_messages as m
from observability.autoscaling.external_metrics import Read, Refused, selector
from observability.autoscaling.signals import (
    DESIRED,
    SIGNALS,
    Readings,
    Signal,
    Unavailable,
    UnknownPool,
    default_target,
)

Count = Callable[[str], None]
Woken = Callable[[str, float], Awaitable[None]]  # (pool, seconds): until something may have changed, or they are over
_EVERY = 1.0  # seconds between two looks of a stream: what other replicas hold tells itself by nothing else


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a ScaledObject's trigger asks for."""

    pool: str  # "ns/name"
    signal: Signal
    target: float | None  # None: as the pool says
    labels: tuple[tuple[str, str], ...] = ()

    def target_for(self, readings: Readings) -> float:
        return default_target(self.signal, readings.demand) if self.target is None else self.target


class BadTrigger(Exception):
    """The trigger's metadata makes no sense; the message names the field and the remedy."""


def trigger(reference: Any) -> Trigger:
    """Of a ScaledObjectRef. Raises BadTrigger."""
    metadata = dict(reference.scalerMetadata)
    pool = metadata.get("pool", "")
    if not pool:
        raise BadTrigger("metadata.pool: name the InferencePool, which is in the namespace of the ScaledObject")
    name = metadata.get("signal", DESIRED.name)
    if name not in SIGNALS:
        raise BadTrigger(f"metadata.signal: {name!r} is none; write one of {', '.join(SIGNALS)}")
    text = metadata.get("target", "")
    try:
        target = float(text) if text else None
        labels = selector(metadata.get("labels", ""))
    except ValueError:
        raise BadTrigger(f"metadata.target: {text!r} is no number; write one above 0") from None
    except Refused as error:
        raise BadTrigger(f"metadata.labels: {error}") from None
    if target is not None and not 0.0 < target < math.inf:
        raise BadTrigger(f"metadata.target: {text!r} must be above 0")
    return Trigger(f"{reference.namespace}/{pool}", SIGNALS[name], target, tuple(labels.items()))


class Scaler:
    """The service. `read` raises UnknownPool and Unavailable."""

    def __init__(self, read: Read, woken: Woken, count: Count = lambda _: None) -> None:
        self._read, self._woken, self._count = read, woken, count

    def handler(self) -> grpc.GenericRpcHandler:
        """To be served by grpc.aio."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler

        def method(make: Any, handle: Any, request: Any, response: Any) -> Any:
            return make(handle, request.FromString, response.SerializeToString)

        methods = {
            "IsActive": method(unary, self.is_active, m.ScaledObjectRef, m.IsActiveResponse),
            "StreamIsActive": method(stream, self.stream_is_active, m.ScaledObjectRef, m.IsActiveResponse),
            "GetMetricSpec": method(unary, self.metric_spec, m.ScaledObjectRef, m.GetMetricSpecResponse),
            "StreamMetricSpec": method(stream, self.stream_metric_spec, m.ScaledObjectRef, m.GetMetricSpecResponse),
            "GetMetrics": method(unary, self.metrics, m.GetMetricsRequest, m.GetMetricsResponse),
        }
        return grpc.method_handlers_generic_handler(m.SERVICE, methods)

    async def is_active(self, reference: Any, context: Any) -> Any:
        """Whether there is work: KEDA goes to zero when there was none for its cooldownPeriod, and leaves zero when there is."""
        asked = await _trigger(reference, context)
        readings = await self._readings(asked, context)
        try:
            return m.IsActiveResponse(result=readings.active())
        except Unavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            raise

    async def stream_is_active(self, reference: Any, context: Any) -> AsyncIterator[Any]:
        """What `is_active` says, whenever it changes. While it is not known nothing is said."""
        asked, told = await _trigger(reference, context), None
        while True:
            with suppress(Unavailable, UnknownPool):
                active = (await self._read(asked.pool, dict(asked.labels))).active()
                if active != told:
                    told = active
                    yield m.IsActiveResponse(result=active)
            await self._woken(asked.pool, _EVERY)

    async def metric_spec(self, reference: Any, context: Any) -> Any:
        asked = await _trigger(reference, context)
        return _spec(asked, await self._target(asked))

    async def stream_metric_spec(self, reference: Any, context: Any) -> AsyncIterator[Any]:
        """The target, and again when the pool's own has changed."""
        asked, told = await _trigger(reference, context), None
        while True:
            target = await self._target(asked)
            if target != told:
                told = target
                yield _spec(asked, target)
            await self._woken(asked.pool, _EVERY)

    async def metrics(self, request: Any, context: Any) -> Any:
        asked = await _trigger(request.scaledObjectRef, context)
        readings = await self._readings(asked, context)
        try:
            value = readings.value(asked.signal)
        except Unavailable as error:
            self._count("unknown")
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            raise  # abort raises; this is for those who read types
        self._count("ok")
        return m.GetMetricsResponse(
            metricValues=[
                m.MetricValue(
                    metricName=request.metricName or asked.signal.name,
                    metricValue=math.ceil(value),
                    metricValueFloat=value,
                )
            ]
        )

    async def _target(self, asked: Trigger) -> float:
        """A pool that is not known (yet) has the target of most: KEDA makes its autoscaler when the ScaledObject is made."""
        if asked.target is not None:
            return asked.target
        try:
            return asked.target_for(await self._read(asked.pool, dict(asked.labels)))
        except (Unavailable, UnknownPool):
            return asked.signal.target

    async def _readings(self, asked: Trigger, context: Any) -> Readings:
        try:
            return await self._read(asked.pool, dict(asked.labels))
        except UnknownPool as error:
            self._count("refused")
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
            raise
        except Unavailable as error:
            self._count("unknown")
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            raise


async def _trigger(reference: Any, context: Any) -> Trigger:
    try:
        return trigger(reference)
    except BadTrigger as error:
        where = f"ScaledObject {reference.namespace}/{reference.name}"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{where}: {error}")
        raise


def _spec(asked: Trigger, target: float) -> Any:
    spec = m.MetricSpec(metricName=asked.signal.name, targetSize=max(round(target), 1), targetSizeFloat=target)
    return m.GetMetricSpecResponse(metricSpecs=[spec])


def labels_of(text: str) -> Mapping[str, str]:
    """`a=b,c=d`, for whoever takes labels as text. Raises BadTrigger."""
    try:
        return selector(text)
    except Refused as error:
        raise BadTrigger(str(error)) from None
