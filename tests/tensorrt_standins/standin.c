/* Stands in for libnvinfer, libnvinfer_plugin, libnvonnxparser and libnvparsers, so that TensorRT's real
 * Python bindings import on a machine without TensorRT and without a GPU. Every factory returns NULL, which
 * is also what the real library does where there is no driver. No TensorRT code is in here. */
#include <stddef.h>

#define FACTORY(name) \
    void *name(void) { return NULL; }

FACTORY(createInferBuilder_INTERNAL)
FACTORY(createInferRuntime_INTERNAL)
FACTORY(createInferRefitter_INTERNAL)
FACTORY(createNvOnnxParser_INTERNAL)
FACTORY(createNvOnnxParserRefitter_INTERNAL)
FACTORY(getBuilderPluginRegistry)
FACTORY(getPluginRegistry)

int getNvOnnxParserVersion(void) { return 0; }
int getInferLibVersion(void) { return 0; }
int initLibNvInferPlugins(void *logger, const char *space) { return (void)logger, (void)space, 1; }

/* The parsers of TensorRT 8 for Caffe and UFF, by their C++ names. */
FACTORY(_ZN11nvuffparser15createUffParserEv)
FACTORY(_ZN14nvcaffeparser117createCaffeParserEv)
FACTORY(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
FACTORY(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
