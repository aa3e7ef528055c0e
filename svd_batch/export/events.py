"""TensorBoard event files: scalars, texts, clips and hyperparameters, straight from tensorboard's own protos.

`torch.utils.tensorboard` would bring torch along and encodes clips by moviepy; Pillow's GIFs need neither.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class EventFile:
    """One run's event file, written into a folder; `add` puts a step's values at the end of it."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._summary, self._metadata = Summary, SummaryMetadata
        self._file = EventFileWriter(str(folder))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers."""
        self._add([self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()], step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Write Markdown for the Text tab."""
        from tensorboard.compat.proto.tensor_pb2 import TensorProto

        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()])
        tensor.tensor_shape.dim.add(size=1)
        metadata = self._metadata(plugin_data=self._metadata.PluginData(plugin_name="text", content=b""))
        self._add([self._summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)], step)

    def clip(self, tag: str, gif: bytes, height: int, width: int, step: int = 0) -> None:
        """Write a GIF, which the Images tab plays."""
        image = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._add([self._summary.Value(tag=tag, image=image)], step)

    def hyperparameters(self, parameters: Mapping[str, Any], group: str) -> None:
        """Write what the HParams tab knows of a run: its parameters, begun and ended."""
        from tensorboard.plugins.hparams import plugin_data_pb2

        start = plugin_data_pb2.SessionStartInfo(group_name=group, start_time_secs=time.time())
        for name, value in parameters.items():
            if value is None:
                continue
            kind = "bool" if isinstance(value, bool) else "number" if isinstance(value, (int, float)) else "string"
            setattr(start.hparams[name], f"{kind}_value", value)
        end = plugin_data_pb2.SessionEndInfo(status="STATUS_SUCCESS", end_time_secs=time.time())
        self._hyperparameters("session_start_info", start)
        self._hyperparameters("session_end_info", end)

    def _hyperparameters(self, field: str, message: Any) -> None:
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **{field: message})
        plugin = self._metadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
        self._add([self._summary.Value(tag=f"_hparams_/{field}", metadata=self._metadata(plugin_data=plugin))], 0)

    def _add(self, values: list[Any], step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._file.add_event(Event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def flush(self) -> None:
        """Bring everything to disk.

        Raises: OSError where it can't be written.
        """
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
