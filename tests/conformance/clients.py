"""A server, and the clients of others that it is held to: what the checks have in common."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

COMMANDS, QUERIES = "daybook.v1.CommandService", "daybook.v1.QueryService"
START_SECONDS, STOP_SECONDS = 20, 20
# How long a program may take that makes a few calls.
PROGRAM_SECONDS = 60


class Server:
    """A server in memory, ended by its id."""

    def __init__(self, binary, *flags, **variables):
        command = [binary, "--ephemeral", "--listen", "127.0.0.1:0", "--log-format", "json", *flags]
        self.process = subprocess.Popen(
            command, env=os.environ | variables, stderr=subprocess.PIPE, text=True
        )
        late = threading.Timer(START_SECONDS, self.process.kill)
        late.start()
        self.address, self.lines = "", []
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r'"address":"([^"]+)"', line)
            self.address = found.group(1) if found else self.address
            if '"serving"' in line:
                break
        late.cancel()
        # Nobody may be held back by what is not read.
        self.reader = threading.Thread(
            target=lambda: self.lines.extend(self.process.stderr), daemon=True
        )
        self.reader.start()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self):
        return self.process.wait(STOP_SECONDS)

    def log(self):
        """All that a server has told that has ended, line by line."""
        self.reader.join(STOP_SECONDS)
        return [json.loads(line) for line in self.lines]


@contextlib.contextmanager
def running(binary, *flags, **variables):
    server = Server(binary, *flags, **variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


class Client:
    """grpcio, with the messages that the server's reflection tells."""

    def __init__(self, address):
        options = [("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options)
        self.pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def message(self, name, **fields):
        kind = self.pool.FindMessageTypeByName(f"daybook.v1.{name}")
        return message_factory.GetMessageClass(kind)(**fields)

    def method(self, service, name, kind="unary_unary"):
        answer = self.pool.FindMessageTypeByName(f"daybook.v1.{name}Response")
        return getattr(self.channel, kind)(
            f"/{service}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(answer).FromString,
        )

    def call(self, service, name, **fields):
        """Makes a call that has one answer."""
        return self.method(service, name)(self.message(f"{name}Request", **fields), timeout=20)

    def tail(self, timeout=None, **fields):
        method = self.method(QUERIES, "TailEvents", "unary_stream")
        return method(self.message("TailEventsRequest", **fields), timeout=timeout)

    def watch(self, service):
        return self.health.Watch(health_pb2.HealthCheckRequest(service=service))

    def opened(self, minor=0):
        fields = {"owner": "ada", "initial_balance_minor": minor}
        return self.call(COMMANDS, "OpenAccount", **fields).account_id


def reason(error):
    """The reason of the ErrorInfo of an error; none when it has none."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return None


def ended(call):
    """The error that a stream ends with."""
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return error
    raise AssertionError("the stream ended without an error")


def refused(what):
    try:
        answer = what()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"it was answered: {answer}")


def program(*command, given=b""):
    """What a program writes, which has to end well."""
    done = subprocess.run(command, input=given, capture_output=True, timeout=PROGRAM_SECONDS)
    if done.returncode:
        raise AssertionError((done.stdout + done.stderr).decode(errors="replace"))
    return done.stdout


def expect(found, expected):
    if found != expected:
        raise AssertionError(f"expected {expected}, found {found}")
