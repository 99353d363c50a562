package manifests

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

const npu = "huawei.com/Ascend910"

// trapped tells the first trap that the example has stepped into.
func (s set) trapped() error {
	pods, err := s.pods()
	if err != nil {
		return err
	}
	for role, kind := range map[string]string{"prefill": "kv_producer", "decode": "kv_consumer"} {
		pod, found := pods[role]
		if !found || len(pods) != 2 || len(pod.Spec.Containers) != 1 {
			return fmt.Errorf("there are to be two roles with a pod of one container; %s: %v", role, found)
		}
		for _, trap := range []func(corev1.PodTemplateSpec, corev1.Container) error{
			func(_ corev1.PodTemplateSpec, one corev1.Container) error { return transfer(one, kind) }, sizes, address, memory, files,
		} {
			if err := trap(pod, pod.Spec.Containers[0]); err != nil {
				return fmt.Errorf("%s: %w", role, err)
			}
		}
	}
	return s.apart(pods)
}

// option gives the value of a command-line option, as `--name=value` or `--name value`.
func option(one corev1.Container, name string) string {
	for at, argument := range one.Args {
		if value, found := strings.CutPrefix(argument, name+"="); found {
			return value
		}
		if argument == name && at+1 < len(one.Args) {
			return one.Args[at+1]
		}
	}
	return ""
}

// transfer: no fixed engine id, no fixed port, no sizes that the command does not start, nothing that a shell would have to expand.
func transfer(one corev1.Container, role string) error {
	if len(one.Command) > 0 {
		return fmt.Errorf("%v takes the place of the image's entry point", one.Command)
	}
	if slices.Contains(one.Args, "sh") || slices.Contains(one.Args, "bash") {
		return fmt.Errorf("a shell reads the command")
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(option(one, "--kv-transfer-config")), &config); err != nil {
		return fmt.Errorf("--kv-transfer-config: %w", err)
	}
	for key, want := range map[string]any{"kv_connector": "RopewayConnector", "kv_role": role, "kv_port": int64(0),
		"engine_id": nil, "kv_connector_extra_config": nil, "kv_connector_module_path": nil} {
		if config[key] != want {
			return fmt.Errorf("%s is %v, not %v", key, config[key], want)
		}
	}
	return nil
}

// sizes: as many NPUs as ranks are started.
func sizes(_ corev1.PodTemplateSpec, one corev1.Container) error {
	ranks, npus := option(one, "--tensor-parallel-size"), one.Resources.Limits[npu]
	requested := one.Resources.Requests[npu]
	if npus.String() != ranks || requested.Cmp(npus) != 0 || option(one, "--data-parallel-size") != "" {
		return fmt.Errorf("%s ranks on %s NPUs, of %s requested", ranks, npus.String(), requested.String())
	}
	return nil
}

// address: the pod's own, and the node's name, by the downward API; never the host's network.
func address(pod corev1.PodTemplateSpec, one corev1.Container) error {
	if pod.Spec.HostNetwork {
		return fmt.Errorf("hostNetwork puts it outside of network policies")
	}
	found := map[string]string{}
	for _, variable := range one.Env {
		if variable.ValueFrom != nil && variable.ValueFrom.FieldRef != nil {
			found[variable.Name] = variable.ValueFrom.FieldRef.FieldPath
		}
	}
	for name, path := range map[string]string{
		"HCCL_IF_IP": "status.podIP", "VLLM_HOST_IP": "status.podIP", "ROPEWAY_NODE": "spec.nodeName"} {
		if found[name] != path {
			return fmt.Errorf("%s comes from %q, not %s", name, found[name], path)
		}
	}
	if option(one, "--host") != "0.0.0.0" {
		return fmt.Errorf("the server listens on %q, where no router reaches it", option(one, "--host"))
	}
	return nil
}

// memory: a limit, guaranteed, that holds a /dev/shm of a gibibyte or more with room to spare.
func memory(pod corev1.PodTemplateSpec, one corev1.Container) error {
	limit, requested := one.Resources.Limits.Memory(), one.Resources.Requests.Memory()
	if limit.IsZero() || limit.Cmp(*requested) != 0 {
		return fmt.Errorf("memory: limit %s, request %s", limit, requested)
	}
	source := mounted(pod, one, "/dev/shm").EmptyDir
	if source == nil || source.Medium != corev1.StorageMediumMemory || source.SizeLimit == nil {
		return fmt.Errorf("/dev/shm is no memory with a limit")
	}
	if size := source.SizeLimit.Value(); size < 1<<30 || size > limit.Value()/4 {
		return fmt.Errorf("/dev/shm of %s in %s", source.SizeLimit, limit)
	}
	return nil
}

func files(pod corev1.PodTemplateSpec, one corev1.Container) error {
	source := mounted(pod, one, "/etc/hccn.conf").HostPath
	if source == nil || source.Path != "/etc/hccn.conf" || source.Type == nil || *source.Type != corev1.HostPathFile {
		return fmt.Errorf("/etc/hccn.conf is not the host's file")
	}
	for _, mount := range one.VolumeMounts {
		if mount.MountPath == "/etc/hccn.conf" && !mount.ReadOnly {
			return fmt.Errorf("/etc/hccn.conf can be written")
		}
	}
	return nil
}

func mounted(pod corev1.PodTemplateSpec, one corev1.Container, path string) corev1.VolumeSource {
	for _, mount := range one.VolumeMounts {
		for _, volume := range pod.Spec.Volumes {
			if mount.MountPath == path && mount.Name == volume.Name {
				return volume.VolumeSource
			}
		}
	}
	return corev1.VolumeSource{}
}

// apart: the names by which the objects find each other, and who may reach whom.
func (s set) apart(pods map[string]corev1.PodTemplateSpec) error {
	objects := map[string]Object{}
	for name := range s {
		object, err := s.object(name)
		if err != nil {
			return err
		}
		objects[name] = object
	}
	serving, server, route := objects["modelserving.yaml"], objects["modelserver.yaml"], objects["modelroute.yaml"]
	const label = "modelserving.volcano.sh/"
	selector, _ := at(server, "spec", "workloadSelector").(Object)
	first, _ := at(route, "spec", "rules").([]any)
	targets, _ := at(first[0], "targetModels").([]any)
	port := fmt.Sprint(at(server, "spec", "workloadPort", "port"))
	type same struct {
		what       string
		one, other any
	}
	facts := []same{
		{"selected", at(selector, "matchLabels", label+"name"), at(serving, "metadata", "name")},
		{"groups", at(selector, "pdGroup", "groupKey"), label + "group-name"},
		{"prefill", at(selector, "pdGroup", "prefillLabels", label+"role"), "prefill"},
		{"decode", at(selector, "pdGroup", "decodeLabels", label+"role"), "decode"},
		{"routed", at(targets[0], "modelServerName"), at(server, "metadata", "name")},
		{"asked for", at(route, "spec", "modelName"), at(server, "spec", "model")},
		{"parameters passed", slices.Contains([]any{"nixl", "mooncake"}, at(server, "spec", "kvConnector", "type")), true},
	}
	policy, err := s.policy()
	if err != nil {
		return err
	}
	for role, pod := range pods {
		one := pod.Spec.Containers[0]
		facts = append(facts, same{role + " serves", option(one, "--served-model-name"), at(server, "spec", "model")},
			same{role + " listens on", option(one, "--port"), port},
			same{role + " shows", fmt.Sprint(one.Ports[0].ContainerPort), port})
		for key, value := range policy.Spec.PodSelector.MatchLabels {
			facts = append(facts, same{role + " is under the policy", pod.Labels[key], value})
		}
	}
	for name, object := range objects {
		facts = append(facts, same{name + " lives in", at(object, "metadata", "namespace"), at(serving, "metadata", "namespace")})
	}
	rules := policy.Spec.Ingress
	if len(rules) != 2 || len(rules[0].From) != 1 || len(rules[1].From) != 1 || len(rules[1].Ports) != 1 {
		return fmt.Errorf("the policy is to let in the group's pods, and the router to one port")
	}
	group, among := policy.Spec.PodSelector.String(), rules[0].From[0].PodSelector
	facts = append(facts, same{"among themselves", among.String(), group}, same{"the router reaches", rules[1].Ports[0].Port.String(), port})
	for _, fact := range facts {
		if fact.one == nil || fmt.Sprint(fact.one) != fmt.Sprint(fact.other) {
			return fmt.Errorf("%s: %v and %v", fact.what, fact.one, fact.other)
		}
	}
	return nil
}

func TestTheExampleStepsIntoNoTrap(t *testing.T) {
	if err := example(t).trapped(); err != nil {
		t.Error(err)
	}
}

func TestEachTrapIsNoticed(t *testing.T) {
	serving, server := "modelserving.yaml", "modelserver.yaml"
	for _, one := range [][4]string{
		{serving, `"kv_port": 0}`, `"kv_port": 20001}`, "kv_port is 20001"},
		{serving, `"kv_port": 0}`, `"kv_port": 0, "engine_id": "0"}`, "engine_id is 0"},
		{serving, `"kv_port": 0}`, `"kv_port": 0, "kv_connector_extra_config": {"prefill": {"dp_size": 2}}}`, "extra_config"},
		{serving, "                args:\n                  - vllm\n", "                command: [vllm]\n                args:\n", "entry point"},
		{serving, "                  - vllm\n                  - serve\n", "                  - bash\n                  - -c\n                  - vllm serve\n", "a shell"},
		{serving, `"kv_role": "kv_consumer"`, `"kv_role": "kv_producer"`, "decode: kv_role"},
		{serving, "--tensor-parallel-size=2", "--tensor-parallel-size=4", "4 ranks on 2 NPUs"},
		{serving, "--trust-remote-code", "--data-parallel-size=2", "2 ranks on 2 NPUs"},
		{serving, "fieldPath: spec.nodeName", "fieldPath: metadata.name", "ROPEWAY_NODE"},
		{serving, "name: HCCL_IF_IP", "name: HCCL_IF", "HCCL_IF_IP"},
		{serving, "--host=0.0.0.0", "--host=127.0.0.1", "no router reaches"},
		{serving, "containers:", "hostNetwork: true\n            containers:", "outside of network policies"},
		{serving, "sizeLimit: 4Gi", "sizeLimit: 256Mi", "/dev/shm of 256Mi"},
		{serving, "sizeLimit: 4Gi", "sizeLimit: 64Gi", "/dev/shm of 64Gi"},
		{serving, "medium: Memory, ", "", "no memory with a limit"},
		{serving, "mountPath: /dev/shm", "mountPath: /shm", "no memory with a limit"},
		{serving, "                    memory: 96Gi\n                    huawei.com/Ascend910: \"2\"\n                  limits",
			"                    huawei.com/Ascend910: \"2\"\n                  limits", "memory: limit 96Gi, request 0"},
		{serving, "mountPath: /etc/hccn.conf, readOnly: true", "mountPath: /etc/hccn.conf", "can be written"},
		{serving, "type: File", "type: FileOrCreate", "not the host's file"},
		{serving, "ropeway.group: deepseek-v2-lite", "ropeway.group: another", "under the policy"},
		{serving, "--port=8000", "--port=8100", "listens on"},
		{serving, "name: deepseek-v2-lite", "name: deepseek", "selected"},
		{server, "type: nixl", "type: http", "parameters passed"},
		{server, "role: decode", "role: prefill", "decode: prefill and decode"},
		{server, "model: deepseek-v2-lite", "model: DeepSeek-V2-Lite", "asked for"},
		{server, "namespace: inference", "namespace: default", "lives in"},
		{"modelroute.yaml", "modelServerName: deepseek-v2-lite", "modelServerName: deepseek", "routed"},
		{"networkpolicy.yaml", "port: 8000", "port: 8001", "the router reaches"},
		{"networkpolicy.yaml", "      ports:\n        - { protocol: TCP, port: 8000 }\n", "", "one port"},
	} {
		err := example(t).with(t, one[0], one[1], one[2]).trapped()
		if err == nil || !strings.Contains(err.Error(), one[3]) {
			t.Errorf("%s with %q: %v", one[0], one[2], err)
		}
	}
}
