"""A runtime for MLServer: one tensor in, one out."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from net import Net


class Model(MLModel):
    async def load(self) -> bool:
        self.net = Net()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (given,) = payload.inputs
        (values,) = self.net.session.run(None, {given.name: NumpyCodec.decode_input(given)})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", values)])
