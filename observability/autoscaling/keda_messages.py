"""The messages of KEDA's external scaler, from a description instead of generated code: seven messages, built once at import.

Source: kedacore/keda pkg/scalers/externalscaler/externalscaler.proto, 2.18 and StreamMetricSpec of #7794.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "externalscaler.ExternalScaler"
_Field = descriptor_pb2.FieldDescriptorProto
_ONE, _MANY = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
    "int64": _Field.TYPE_INT64,
    "double": _Field.TYPE_DOUBLE,
}
# message -> its fields in the order of their numbers, each "name: type", `[]` for repeated.
_MESSAGES: dict[str, tuple[str, ...]] = {
    "ScaledObjectRef": ("name: string", "namespace: string", "scalerMetadata: ScalerMetadataEntry[]"),
    "IsActiveResponse": ("result: bool",),
    "MetricSpec": ("metricName: string", "targetSize: int64", "targetSizeFloat: double"),
    "GetMetricSpecResponse": ("metricSpecs: MetricSpec[]",),
    "GetMetricsRequest": ("scaledObjectRef: ScaledObjectRef", "metricName: string"),
    "MetricValue": ("metricName: string", "metricValue: int64", "metricValueFloat: double"),
    "GetMetricsResponse": ("metricValues: MetricValue[]",),
}


def _field(text: str, number: int, scope: str) -> Any:
    name, _, kind = text.partition(": ")
    many, kind = kind.endswith("[]"), kind.removesuffix("[]")
    made = _Field(name=name, number=number, label=_MANY if many else _ONE)
    if kind in _SCALARS:
        made.type = _SCALARS[kind]
    else:
        made.type = _Field.TYPE_MESSAGE
        made.type_name = f"{scope}.{kind}" if kind.endswith("Entry") else f".externalscaler.{kind}"
    return made


def _file() -> Any:
    made = descriptor_pb2.FileDescriptorProto(
        name="penstock/externalscaler.proto", package="externalscaler", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        scope = f".externalscaler.{name}"
        message = made.message_type.add(name=name)
        message.field.extend(_field(text, number, scope) for number, text in enumerate(fields, 1))
    entry = made.message_type[0].nested_type.add(name="ScalerMetadataEntry")  # map<string, string>
    entry.field.extend((_field("key: string", 1, ""), _field("value: string", 2, "")))
    entry.options.map_entry = True
    return made


_pool = descriptor_pool.DescriptorPool()  # our own: another copy of the same package may be in the process
_pool.Add(_file())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"externalscaler.{name}"))


ScaledObjectRef = _message("ScaledObjectRef")
IsActiveResponse = _message("IsActiveResponse")
MetricSpec = _message("MetricSpec")
GetMetricSpecResponse = _message("GetMetricSpecResponse")
GetMetricsRequest = _message("GetMetricsRequest")
MetricValue = _message("MetricValue")
GetMetricsResponse = _message("GetMetricsResponse")
