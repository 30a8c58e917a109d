"""The messages on the wire, against bytes that the protobuf encoding of externalscaler.proto gives."""

from observability.autoscaling import keda_messages as m


def test_bytes_are_those_of_the_published_proto() -> None:
    reference = m.ScaledObjectRef(name="n", namespace="s", scalerMetadata={"k": "v"})
    assert reference.SerializeToString() == b"\n\x01n\x12\x01s\x1a\x06\n\x01k\x12\x01v"
    assert m.IsActiveResponse(result=True).SerializeToString() == b"\x08\x01"
    spec = m.MetricSpec(metricName="a", targetSize=2, targetSizeFloat=1.5)
    assert spec.SerializeToString() == b"\n\x01a\x10\x02\x19\x00\x00\x00\x00\x00\x00\xf8?"
    assert m.GetMetricSpecResponse(metricSpecs=[spec]).SerializeToString() == b"\n\x0e" + spec.SerializeToString()
    request = m.GetMetricsRequest(scaledObjectRef=reference, metricName="a")
    assert request.SerializeToString() == b"\n\x0e" + reference.SerializeToString() + b"\x12\x01a"
    value = m.MetricValue(metricName="a", metricValue=2, metricValueFloat=1.5)
    assert m.GetMetricsResponse(metricValues=[value]).SerializeToString() == b"\n\x0e" + value.SerializeToString()
    assert value.SerializeToString() == spec.SerializeToString()
