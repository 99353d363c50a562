package manifests

import (
	"encoding/json"

	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// Restated is what is known here of the fields of Kthena's resources, version v1alpha1, sources of August 2026: the fields
// that such an example can use, with their limits. It is written by hand, and not Kthena's own schema: what Kthena added,
// took away or checks by rules between fields is not in it. Pods are left open; Kubernetes' own types check them.
func Restated() []v1.CustomResourceDefinition {
	workload, networking := "workload.serving.volcano.sh", "networking.serving.volcano.sh"
	return []v1.CustomResourceDefinition{
		define(workload, "ModelServing", modelServing()),
		define(networking, "ModelServer", modelServer()),
		define(networking, "ModelRoute", modelRoute()),
	}
}

func modelServing() v1.JSONSchemaProps {
	pod := object(nil, fields{
		"metadata": object(nil, fields{"labels": texts(), "annotations": texts()}),
		"spec":     {Type: "object", XPreserveUnknownFields: new(true)},
	})
	name := v1.JSONSchemaProps{Type: "string", MaxLength: new(int64(12)),
		Pattern: "^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"}
	role := object([]string{"name", "entryTemplate", "workerReplicas"}, fields{
		"name": name, "replicas": integer(1), "entryTemplate": pod, "workerReplicas": integer(), "workerTemplate": pod,
	})
	roles := list(role)
	roles.MinItems, roles.MaxItems = new(int64(1)), new(int64(4))
	counts := v1.JSONSchemaProps{Type: "object", AdditionalProperties: &v1.JSONSchemaPropsOrBool{Allows: true, Schema: new(integer())}}
	group := object([]string{"roles"}, fields{
		"restartGracePeriodSeconds": integer(0), "roles": roles,
		"gangPolicy": object(nil, fields{"minRoleReplicas": counts}),
	})
	amount := v1.JSONSchemaProps{XIntOrString: true}
	return object([]string{"template"}, fields{
		"replicas": integer(1), "schedulerName": text(), "template": group,
		"recoveryPolicy": text("ServingGroupRecreate", "RoleRecreate", "None"),
		"rolloutStrategy": object([]string{"type"}, fields{
			"type": text("ServingGroupRollingUpdate", "RoleRollingUpdate"),
			"rollingUpdateConfiguration": object(nil, fields{
				"maxUnavailable": amount, "partition": amount}),
		}),
	})
}

func modelServer() v1.JSONSchemaProps {
	port := integer()
	port.Minimum, port.Maximum = new(1.0), new(65535.0)
	model := text()
	model.MaxLength = new(int64(256))
	return object([]string{"inferenceEngine", "workloadSelector"}, fields{
		"model": model, "inferenceEngine": text("vLLM", "SGLang"),
		"workloadSelector": object(nil, fields{
			"matchLabels": texts(),
			"pdGroup": object([]string{"groupKey", "prefillLabels", "decodeLabels"}, fields{
				"groupKey": text(), "prefillLabels": texts(), "decodeLabels": texts()}),
		}),
		"workloadPort": object([]string{"port"}, fields{"port": port, "protocol": text("http", "https")}),
		"trafficPolicy": object(nil, fields{
			"timeout": text(), "retry": object(nil, fields{"attempts": integer(), "retryInterval": text()})}),
		"kvConnector": object(nil, fields{"type": text("http", "lmcache", "nixl", "mooncake")}),
	})
}

func modelRoute() v1.JSONSchemaProps {
	weight := integer(100)
	weight.Minimum, weight.Maximum = new(0.0), new(100.0)
	targets := list(object([]string{"modelServerName"}, fields{"modelServerName": text(), "weight": weight}))
	targets.MinItems, targets.MaxItems = new(int64(1)), new(int64(16))
	match := object(nil, fields{"exact": text(), "prefix": text(), "regex": text()})
	headers := v1.JSONSchemaProps{Type: "object", AdditionalProperties: &v1.JSONSchemaPropsOrBool{Allows: true, Schema: &match}}
	rules := list(object([]string{"targetModels"}, fields{
		"name": text(), "targetModels": targets, "modelMatch": object(nil, fields{
			"headers": headers, "uri": match, "body": object(nil, fields{"model": text()})}),
	}))
	rules.MaxItems = new(int64(16))
	adapters := list(text())
	adapters.MaxItems = new(int64(10))
	return object([]string{"rules"}, fields{"modelName": text(), "loraAdapters": adapters, "rules": rules})
}

type fields = map[string]v1.JSONSchemaProps

func define(group, kind string, spec v1.JSONSchemaProps) v1.CustomResourceDefinition {
	root := object([]string{"spec"}, fields{
		"apiVersion": text(), "kind": text(), "metadata": {Type: "object"}, "spec": spec})
	return v1.CustomResourceDefinition{Spec: v1.CustomResourceDefinitionSpec{
		Group: group,
		Names: v1.CustomResourceDefinitionNames{Kind: kind},
		Versions: []v1.CustomResourceDefinitionVersion{{
			Name: "v1alpha1", Schema: &v1.CustomResourceValidation{OpenAPIV3Schema: &root}}},
	}}
}

func object(required []string, properties fields) v1.JSONSchemaProps {
	return v1.JSONSchemaProps{Type: "object", Required: required, Properties: properties}
}

func list(of v1.JSONSchemaProps) v1.JSONSchemaProps {
	return v1.JSONSchemaProps{Type: "array", Items: &v1.JSONSchemaPropsOrArray{Schema: &of}}
}

// text is a string, one of a few where some are named.
func text(among ...string) v1.JSONSchemaProps {
	props := v1.JSONSchemaProps{Type: "string"}
	for _, one := range among {
		props.Enum = append(props.Enum, raw(one))
	}
	return props
}

func texts() v1.JSONSchemaProps {
	return v1.JSONSchemaProps{Type: "object", AdditionalProperties: &v1.JSONSchemaPropsOrBool{Allows: true, Schema: new(text())}}
}

// integer may have a default.
func integer(otherwise ...int) v1.JSONSchemaProps {
	props := v1.JSONSchemaProps{Type: "integer"}
	if len(otherwise) > 0 {
		props.Default = new(raw(otherwise[0]))
	}
	return props
}

func raw(value any) v1.JSON {
	text, _ := json.Marshal(value)
	return v1.JSON{Raw: text}
}
